"""Every row, config and file of the project, defined once as pydantic models.

Arrow schemas (`schemas.arrow`) and JSON schemas (`Model.model_json_schema()`) derive from these models; nothing else in
the project describes a table, a form or a file format. Time is integer microseconds from a video's first presented
frame, in half-open spans `[start_us, end_us)`.
"""
