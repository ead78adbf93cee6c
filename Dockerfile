# The images, one target each: operator, gateway, worker, and the Prometheus that the chart can bring.
#
#   docker build --target operator -t ryzanstein/operator:dev .
#
# BASE_IMAGE is any image with Python 3.13. The worker takes torch from PyPI unless its base already holds it
# (WORKER_BASE_IMAGE, say a Debian trixie with python3-torch). Where the build has no network, fetch the wheels into
# build/wheels/<target> first, as e2e/cluster does: what lies there is used, and no index is asked.
# tini is process 1: the kernel drops a SIGTERM that process 1 has no handler for yet, so a pod deleted while Python is
# still importing would live on to the end of its grace period.
# USER names the user to libraries that ask (getpass): the UID stands in no passwd file, and may be another.
# Plain enough for Docker's legacy builder, which runs every stage above the target: the heaviest is the last.
# PROMETHEUS_BASE_IMAGE is any Debian; its package is installed where the base does not hold it yet.
ARG BASE_IMAGE=python:3.13-slim
ARG PROMETHEUS_BASE_IMAGE=${BASE_IMAGE}
ARG WORKER_BASE_IMAGE=${BASE_IMAGE}

FROM ${PROMETHEUS_BASE_IMAGE} AS prometheus-files
COPY scripts/prometheus_files.sh /
RUN sh /prometheus_files.sh /files

FROM scratch AS prometheus
COPY --from=prometheus-files /files /
USER 10001:10001
WORKDIR /prometheus
ENTRYPOINT ["/usr/bin/prometheus"]

FROM ${BASE_IMAGE} AS operator-build
COPY scripts/install_in_image.sh requirements/operator.txt build/wheels/operator/*.whl /wheels/
RUN sh /wheels/install_in_image.sh operator
COPY worker/ryzanstein_worker/__init__.py worker/ryzanstein_worker/contract.py /app/ryzanstein_worker/
COPY operator/ryzanstein_operator /app/ryzanstein_operator
RUN /opt/ryzanstein/bin/python -m compileall -q --invalidation-mode unchecked-hash /app

FROM ${BASE_IMAGE} AS operator
RUN command -v tini || (apt-get update && apt-get install -y --no-install-recommends tini && rm -rf /var/lib/apt/lists/*)
COPY --from=operator-build /opt/ryzanstein /opt/ryzanstein
COPY --from=operator-build /app /app
ENV PATH=/opt/ryzanstein/bin:$PATH PYTHONPATH=/app PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp USER=ryzanstein
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["/usr/bin/tini", "--", "python", "-m", "ryzanstein_operator"]

FROM ${BASE_IMAGE} AS gateway-build
COPY scripts/install_in_image.sh requirements/gateway.txt build/wheels/gateway/*.whl /wheels/
RUN sh /wheels/install_in_image.sh gateway
COPY worker/ryzanstein_worker/__init__.py worker/ryzanstein_worker/contract.py /app/ryzanstein_worker/
COPY proto/ryzanstein /app/ryzanstein
COPY gateway/ryzanstein_gateway /app/ryzanstein_gateway
RUN /opt/ryzanstein/bin/python -m compileall -q --invalidation-mode unchecked-hash /app

FROM ${BASE_IMAGE} AS gateway
RUN command -v tini || (apt-get update && apt-get install -y --no-install-recommends tini && rm -rf /var/lib/apt/lists/*)
COPY --from=gateway-build /opt/ryzanstein /opt/ryzanstein
COPY --from=gateway-build /app /app
ENV PATH=/opt/ryzanstein/bin:$PATH PYTHONPATH=/app PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp USER=ryzanstein
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["/usr/bin/tini", "--", "python", "-m", "ryzanstein_gateway"]

FROM ${WORKER_BASE_IMAGE} AS worker-build
COPY scripts/install_in_image.sh requirements/worker.txt requirements/torch.txt build/wheels/worker/*.whl /wheels/
RUN sh /wheels/install_in_image.sh worker
COPY proto/ryzanstein /app/ryzanstein
COPY worker/ryzanstein_worker /app/ryzanstein_worker
RUN /opt/ryzanstein/bin/python -m compileall -q --invalidation-mode unchecked-hash /app

FROM ${WORKER_BASE_IMAGE} AS worker
RUN command -v tini || (apt-get update && apt-get install -y --no-install-recommends tini && rm -rf /var/lib/apt/lists/*)
COPY --from=worker-build /opt/ryzanstein /opt/ryzanstein
COPY --from=worker-build /app /app
ENV PATH=/opt/ryzanstein/bin:$PATH PYTHONPATH=/app PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp USER=ryzanstein
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["/usr/bin/tini", "--", "python", "-m", "ryzanstein_worker"]
