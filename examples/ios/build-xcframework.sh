#!/bin/sh
# Makes Maskgit.xcframework: build-xcframework.sh OUT. On a Mac with Xcode and the two Rust targets. Untried.
set -eu
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
headers=$(mktemp -d)
trap 'rm -rf "$headers"' EXIT
cp include/maskgit.h examples/ios/module.modulemap "$headers"
export IPHONEOS_DEPLOYMENT_TARGET=14.0
for target in aarch64-apple-ios aarch64-apple-ios-sim; do
    cargo rustc --profile small --locked --lib --no-default-features --features capi --crate-type staticlib \
        --target "$target"
done
built=${CARGO_TARGET_DIR:-target}
rm -rf "$out/Maskgit.xcframework"
xcodebuild -create-xcframework \
    -library "$built/aarch64-apple-ios/small/libmaskgit.a" -headers "$headers" \
    -library "$built/aarch64-apple-ios-sim/small/libmaskgit.a" -headers "$headers" \
    -output "$out/Maskgit.xcframework"
