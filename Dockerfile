# One image for every role: worker, beat, sweeper, migrate, sandbox are its commands.
FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/amends
WORKDIR /src
# Dependencies first: this layer is built again only when the lock changes.
COPY requirements/image.txt requirements/
RUN /opt/amends/bin/pip install --require-hashes -r requirements/image.txt
COPY pyproject.toml LICENSE README.md ./
COPY orchestrator/ orchestrator/
COPY steps/ steps/
COPY workers/ workers/
COPY recovery/ recovery/
RUN /opt/amends/bin/pip install --no-deps --no-build-isolation .

FROM python:3.13-slim
LABEL org.opencontainers.image.title="amends" \
      org.opencontainers.image.description="Durable saga orchestration on Celery and Postgres" \
      org.opencontainers.image.licenses="MIT"
# As process 1, a program without handlers of its own would ignore SIGTERM, and nobody would reap orphans.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin amends \
    && install --directory --owner 10001 --group 10001 /var/lib/amends
COPY --from=build /opt/amends /opt/amends
ENV PATH=/opt/amends/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/amends
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--"]
CMD ["amends", "--help"]
