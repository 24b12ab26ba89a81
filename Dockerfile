# Tidegate's images, for those who have a builder: one target per program.
#
#   docker build --target operator -t tidegate/operator:0.1.0 .
#   docker build --target sidecar  -t tidegate/sidecar:0.1.0 .
#   docker build --target ingress  -t tidegate/ingress:0.1.0 .
#
# `make images` makes the same content without a builder.

FROM rust:1.95 AS build
WORKDIR /src
COPY . .
# Naming the target, even the host's own, is what makes .cargo/config.toml link statically, and only the
# programs: build scripts and macros stay as they are.
RUN --mount=type=cache,target=/src/target,sharing=locked \
    --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    host="$(rustc -vV | sed -n 's/^host: //p')" \
 && cargo build --locked --release --target "$host" -p tidegate-handler-sidecar -p tidegate-ingress \
 && cargo build --locked --profile operator --target "$host" -p tidegate-operator \
 && mkdir /out \
 && cp "target/$host/release/tidegate-handler-sidecar" "target/$host/release/tidegate-ingress" \
      "target/$host/operator/tidegate-operator" /out/

# Nothing but the program. It trusts no public authority: the API server's certificate is verified by the
# ServiceAccount's, a broker's by the topic's.
FROM scratch AS base
USER 65532:65532

FROM base AS operator
COPY --from=build /out/tidegate-operator /tidegate-operator
ENTRYPOINT ["/tidegate-operator"]

FROM base AS sidecar
# Where the preStop hook of the sidecar's container finds it.
COPY --from=build /out/tidegate-handler-sidecar /bin/tidegate-handler-sidecar
ENTRYPOINT ["/bin/tidegate-handler-sidecar"]

FROM base AS ingress
COPY --from=build /out/tidegate-ingress /tidegate-ingress
ENTRYPOINT ["/tidegate-ingress"]
