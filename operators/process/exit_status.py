"""Exit statuses of `lvr`, which show its caller whether running a command again can help."""

from schemas.errors import BAD_INPUT_STATUS, FAULT_STATUS, OUTAGE_STATUS

INTERRUPTED_STATUS = 130
EXIT_STATUSES = {
    0: "done; also when there was nothing to do",
    FAULT_STATUS: "a fault of this program, after a traceback; please report it",
    BAD_INPUT_STATUS: "the command line, the configuration or the input is wrong; running again gives the same",
    OUTAGE_STATUS: "a model server, a disk or a video's location is unavailable; run again to resume",
    INTERRUPTED_STATUS: "interrupted by Ctrl-C or SIGTERM; run again to resume",
}
