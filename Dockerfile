# The image of any Django project: its manifest's values come as build arguments, its files as one context that the kit
# packs (kit_control/app_image.py): app/ (the project), requirements/ (its locks and uv's), kit/ (what stands in image/).
# No heredocs and no COPY --link: the BuildKit of Engine 20.10 knows neither.
ARG PYTHON_IMAGE

FROM ${PYTHON_IMAGE} AS builder
ARG PYTHON_VERSION
ARG BUILD_PACKAGES=""
# Company certificates, package index and mirror reach single steps as secrets, and stay in no layer.
# The packages are the manifest's, as separate words; their versions are those of the base image's Debian release.
# hadolint ignore=DL3008,SC2086
RUN --mount=type=secret,id=apt_sources,target=/etc/apt/sources.list.d/build.sources \
    --mount=type=secret,id=ca \
    if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; apt_ca="-oAcquire::https::CaInfo=/run/secrets/ca"; fi; \
    if ! python3 -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '${PYTHON_VERSION}')"; then \
        echo "The manifest wants Python ${PYTHON_VERSION}, the base image has $(python3 --version)." >&2; exit 1; \
    fi; \
    if [ -n "${BUILD_PACKAGES}" ]; then \
        apt-get ${apt_ca:-} update --quiet=2 \
        && apt-get ${apt_ca:-} install --quiet=2 --yes --no-install-recommends ${BUILD_PACKAGES} \
        && rm -rf /var/lib/apt/lists/*; \
    fi
COPY requirements/uv.txt /build/uv.txt
RUN --mount=type=secret,id=ca \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=cache,target=/var/cache/pip \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    python3 -m venv /build/uv \
    && /build/uv/bin/pip install --quiet --cache-dir /var/cache/pip --disable-pip-version-check --require-hashes --requirement /build/uv.txt \
    && /build/uv/bin/uv venv --quiet --python "$(command -v python3)" /opt/venv
ENV UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV=/opt/venv

FROM builder AS builder-release
COPY requirements/release.txt /build/
RUN --mount=type=secret,id=ca \
    --mount=type=secret,id=uv_toml \
    --mount=type=cache,target=/var/cache/uv \
    if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi; \
    if [ -s /run/secrets/uv_toml ]; then export UV_CONFIG_FILE=/run/secrets/uv_toml; fi; \
    /build/uv/bin/uv pip sync --quiet --require-hashes /build/release.txt \
    && rm -f /opt/venv/.lock

FROM builder AS builder-local
COPY requirements/local.txt /build/
RUN --mount=type=secret,id=ca \
    --mount=type=secret,id=uv_toml \
    --mount=type=cache,target=/var/cache/uv \
    if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi; \
    if [ -s /run/secrets/uv_toml ]; then export UV_CONFIG_FILE=/run/secrets/uv_toml; fi; \
    /build/uv/bin/uv pip sync --quiet --require-hashes /build/local.txt \
    && rm -f /opt/venv/.lock

FROM ${PYTHON_IMAGE} AS runtime
ARG RUN_PACKAGES=""
ARG APP_UID
# hadolint ignore=DL3008,SC2086
RUN --mount=type=secret,id=apt_sources,target=/etc/apt/sources.list.d/build.sources \
    --mount=type=secret,id=ca \
    if [ -n "${RUN_PACKAGES}" ]; then \
        if [ -s /run/secrets/ca ]; then apt_ca="-oAcquire::https::CaInfo=/run/secrets/ca"; fi; \
        apt-get ${apt_ca:-} update --quiet=2 \
        && apt-get ${apt_ca:-} install --quiet=2 --yes --no-install-recommends ${RUN_PACKAGES} \
        && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log; \
    fi \
    && find / -xdev -perm /6000 -type f -exec chmod a-s {} + \
    && groupadd --gid "${APP_UID}" app \
    && useradd --uid "${APP_UID}" --gid app --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin app \
    && install -d -o app -g app /var/app /var/app/static /var/app/media /var/app/logs
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LANG=C.UTF-8
WORKDIR /app
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=6 CMD ["python", "/opt/kit/healthcheck.py"]

# For local: packages for development too; the source is mounted over /app.
FROM runtime AS local
COPY --from=builder-local /opt/venv /opt/venv
COPY kit/gunicorn.conf.py kit/healthcheck.py kit/publish_static.py /opt/kit/
ARG APP_UID
USER ${APP_UID}:${APP_UID}

# For dev: the release's packages; the source that was deployed is mounted over /app.
FROM runtime AS dev
COPY --from=builder-release /opt/venv /opt/venv
COPY kit/gunicorn.conf.py kit/healthcheck.py kit/publish_static.py /opt/kit/
ARG APP_UID
USER ${APP_UID}:${APP_UID}

# For prod: all code is inside, owned by root, and the static files stand ready to be published.
FROM runtime AS release
COPY --from=builder-release /opt/venv /opt/venv
COPY kit/gunicorn.conf.py kit/healthcheck.py kit/publish_static.py /opt/kit/
COPY app/ /app/
ARG IMAGE_STATIC
# Several processes at once pay only where there is much to compile: their start takes a quarter of a second.
RUN --mount=type=bind,source=kit/build.sh,target=/opt/build.sh \
    --mount=type=tmpfs,target=/tmp \
    mkdir ${IMAGE_STATIC} && STATIC_ROOT=${IMAGE_STATIC} sh /opt/build.sh \
    && jobs=1 && files="$(find /app -name '*.py' -printf x)" && if [ "${#files}" -gt 400 ]; then jobs=0; fi \
    && python -m compileall -q -j "${jobs}" /app
ARG APP_UID
USER ${APP_UID}:${APP_UID}
