# shellcheck shell=bash
# Sourced: what Rust calls the architectures that images are made for.
rust_target() {
  case $1 in
    amd64) echo x86_64-unknown-linux-gnu ;;
    arm64) echo aarch64-unknown-linux-gnu ;;
    *)
      echo "release: architecture $1 is neither amd64 nor arm64" >&2
      return 1
      ;;
  esac
}
