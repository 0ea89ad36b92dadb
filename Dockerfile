# The image of `keygraph serve`, for CPUs: docs/how-to/run-in-a-container.md.
ARG PYTHON=3.12

# The wheel, and an environment that holds it with what the service needs, in the versions of constraints.txt.
FROM python:${PYTHON}-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source
COPY . .
RUN pip install -c constraints.txt cmake ninja scikit-build-core \
  && pip wheel . --no-deps --no-build-isolation --wheel-dir /wheels \
  -C cmake.define.KEYGRAPH_CUDA=OFF -C cmake.define.KEYGRAPH_OPENVINO=OFF
RUN python -m venv /opt/keygraph \
  && /opt/keygraph/bin/pip install -c constraints.txt "$(ls /wheels/keygraph-*.whl)[serve]" \
  && /opt/keygraph/bin/pip uninstall --yes pip

# The same Python without compilers. The environment lies at the same path, because its programs name it.
FROM python:${PYTHON}-slim-bookworm
COPY --from=build /opt/keygraph /opt/keygraph
ENV PATH=/opt/keygraph/bin:$PATH PYTHONUNBUFFERED=1 XDG_CACHE_HOME=/tmp/cache
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", \
  "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["keygraph", "serve", "--host", "0.0.0.0"]
CMD ["--model", "/models/model.onnx"]
