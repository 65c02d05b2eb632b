# One image for every Airflow component and for the small llama.cpp server; docker-compose.yml gives each its command.
# No ffmpeg from the system: the one in use is imageio-ffmpeg's, pinned in requirements/deploy.txt with everything else.

FROM python:3.11.14-slim-bookworm AS build
COPY requirements/deploy.txt /tmp/deploy.txt
# The lock is complete, so nothing is resolved here; wheels only, so no compiler is needed. pip writes the byte code too.
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --no-deps --only-binary :all: --requirement /tmp/deploy.txt

FROM python:3.11.14-slim-bookworm
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="longvideo-reason" \
      org.opencontainers.image.description="Long videos in, a verified long-video reasoning dataset out: the Airflow pipeline." \
      org.opencontainers.image.version="${VERSION}"
# libgomp1: xllamacpp's llama.cpp is linked against it. tini: reaps children and hands SIGTERM on, so that workers stop warmly.
# Group 0 owns what is written, as in Airflow's own image, so that any uid in group 0 can run it.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1 tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 50000 --gid 0 --no-create-home --home-dir /opt/airflow airflow \
 && install -d -o 50000 -g 0 -m 0775 /opt/airflow /opt/airflow/logs /videos
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/lvr \
    PYTHONUNBUFFERED=1 \
    AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/lvr/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/lvr/plugins
WORKDIR /opt/lvr
COPY schemas schemas
COPY prompts prompts
COPY operators operators
COPY plugins plugins
COPY dags dags
COPY deploy deploy
RUN python -m compileall -q .
USER 50000:0
ENTRYPOINT ["tini", "--"]
CMD ["airflow", "version"]
