# Two images of one distribution: `control` runs the services that start no engine, `ml` adds the engine environment for
# those that do (dataset-ingest, weight-validator, trainer, evaluator, deployer). Unproven: no container engine was at
# hand when this was written, so neither image has been built; the tests check only what can be read off this file.
#
#   docker build --target control --tag finery:0.1.0 .
#   docker build --target ml --tag finery-ml:0.1.0 .

FROM python:3.11-slim AS build-control
WORKDIR /opt/finery
COPY pyproject.toml README.md LICENSE ./
COPY contracts contracts
COPY libs libs
COPY services services
RUN python -m venv .venv \
    && .venv/bin/pip install --no-cache-dir --constraint libs/finery_kit/locks/control.txt \
        ".[client,postgres,services,studio]"

FROM build-control AS build-ml
# Engine environments lie beside the control plane's own: .venv and .engines are neighbours.
RUN .venv/bin/finery engines install ml

FROM python:3.11-slim AS runtime
RUN useradd --uid 10001 --create-home finery \
    && install --directory --owner finery /var/lib/finery /var/lib/finery-store
ENV FINERY_HOME=/var/lib/finery FINERY_STORE_ROOT=/var/lib/finery-store PATH=/opt/finery/.venv/bin:$PATH
WORKDIR /var/lib/finery
USER 10001
ENTRYPOINT ["finery"]

FROM runtime AS ml
COPY --from=build-ml /opt/finery/.engines /opt/finery/.engines
COPY --from=build-ml /opt/finery/.venv /opt/finery/.venv

FROM runtime AS control
COPY --from=build-control /opt/finery/.venv /opt/finery/.venv
