#!/bin/sh
# Builds libmaskgit.so for 64-bit ARM Android: build-library.sh OUT. Untried.
# Needs an Android NDK (ANDROID_NDK_HOME) and `rustup target add aarch64-linux-android`.
set -eu
out=$1
api=26
cd "$(dirname "$0")/../.."
tools=$(echo "$ANDROID_NDK_HOME"/toolchains/llvm/prebuilt/*/bin)
export CARGO_TARGET_AARCH64_LINUX_ANDROID_LINKER="$tools/aarch64-linux-android$api-clang"
export CC_aarch64_linux_android="$CARGO_TARGET_AARCH64_LINUX_ANDROID_LINKER"
export AR_aarch64_linux_android="$tools/llvm-ar"
cargo rustc --profile small --locked --lib --no-default-features --features capi --crate-type cdylib \
    --target aarch64-linux-android -- \
    -Clink-arg=-Wl,-z,max-page-size=16384 -Clink-arg=-Wl,-soname,libmaskgit.so
mkdir -p "$out/arm64-v8a"
built=${CARGO_TARGET_DIR:-target}/aarch64-linux-android/small
"$tools/llvm-strip" -o "$out/arm64-v8a/libmaskgit.so" "$built/libmaskgit.so"
