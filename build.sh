#!/usr/bin/env bash
# The one entry: builds, serves and tests bise, and installs what that needs.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: ./build.sh [COMMAND]

  build            pkg/: wasm, its glue, the client and its types (the default)
  serve [--port N] build, then serve the site on http://localhost:8000
  site [DIR]       write a folder that any static host serves (default: target/site)
  bench            speed of the embedded model in Chromium, against the limit it must keep
  bench --browser chromium|firefox|native [MODEL] [--quick] [--kv-cache f8] [--json]
                   a model beside its adapter's own limits, kernel by kernel (default: www/models/tale; mistral-7b: layers
                   of its shape); bench native for short
  bench merge      speed of a merge, natively and in Chromium, beside mergekit's (downloads 3 GB, once)
  bench cache      a first visit on a slow line against one with the model kept
  bench chat       what the turns of a chat compute, with the key/value cache kept between them
  bench --backend cpu
                   SmolLM2 on the CPU, one thread, beside wllama and bare loops
  bench cpu        speed of the embedded model on the CPU, beside WebGPU on a software adapter
  bench load       how fast weights reach the device, against a bare loop of fetch and writeBuffer
  test [STAGE...]  every check, or the stages named (./build.sh test --list)
  test --seven-billion
                   a checkpoint of Mistral 7B's shape in Chromium: an hour, 11 GiB of free memory, 10 GB of disk
  clean            remove what was built; installed tools stay
TEXT
}

cd "$(dirname "${BASH_SOURCE[0]}")"
TARGET=${CARGO_TARGET_DIR:-target} # what cargo builds; everything else lies in target/
STAMPS=target/stamps               # what a step was last made from
WASM_TARGET=wasm32-unknown-unknown
# Every browser that the client runs in has SIMD in WebAssembly (www/bise/serve.js): the CPU backend needs it.
export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS="-C target-feature=+simd128"
# To add a missing target by itself, rustup would update the whole toolchain; need_rust adds just the target.
export RUSTUP_AUTO_INSTALL=0
BROTLI_LIMIT_BYTES=800000

# --- small helpers -----------------------------------------------------------

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2 && exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# Hash of the standard input.
hash_stdin() { if have sha256sum; then sha256sum; else shasum -a 256; fi | cut -d ' ' -f 1; }

# Whether step $1 was last made from the state $2.
is_fresh() { [ "$(cat "$STAMPS/$1" 2>/dev/null)" = "$2" ]; }
mark_fresh() { mkdir -p "$STAMPS" && printf '%s\n' "$2" >"$STAMPS/$1"; }

# Installs Debian packages; without the right to, says what to install.
install_packages() {
    local command="apt-get install --no-install-recommends -y $*"
    have apt-get || die "please install what Debian calls: $*"
    [ "$(id -u)" = 0 ] || die "missing packages, please run: sudo $command"
    say "installing $*"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $command -qq >/dev/null
}

# --- tools -------------------------------------------------------------------

need_rust() {
    have cc || install_packages build-essential
    have cargo || die "cargo is missing: install Rust with rustup (https://rustup.rs)"
    if have rustup && ! rustc --version >/dev/null 2>&1; then
        say "installing the Rust toolchain of rust-toolchain.toml"
        rustup toolchain install
    fi
    local std
    std=$(rustc --print target-libdir --target "$WASM_TARGET" 2>/dev/null) || std=/nonexistent
    compgen -G "$std/libstd-*" >/dev/null && return
    have rustup || die "Rust's $WASM_TARGET target is missing: install it, or use rustup (https://rustup.rs)"
    say "installing Rust's $WASM_TARGET target"
    rustup target add "$WASM_TARGET"
}

need_node() {
    if ! have node || ! have npm; then install_packages nodejs npm; fi
    node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' ||
        die "node $(node --version) is too old: install Node.js 20 or newer (https://nodejs.org)"
    local lock
    lock=$(hash_stdin <tests/package-lock.json)
    is_fresh npm "$lock" && [ -d tests/node_modules ] && return
    say "installing the npm tools"
    (cd tests && npm ci --loglevel=error --no-progress)
    mark_fresh npm "$lock"
}

# The wasm-bindgen command of exactly the crate's version, in $WASM_BINDGEN.
need_wasm_bindgen() {
    local version
    version=$(awk '/^name = "wasm-bindgen"$/ { getline; gsub(/[^0-9.]/, ""); print; exit }' Cargo.lock)
    for WASM_BINDGEN in wasm-bindgen "$PWD/.tools/bin/wasm-bindgen"; do
        [ "$("$WASM_BINDGEN" --version 2>/dev/null)" = "wasm-bindgen $version" ] && return
    done
    say "installing wasm-bindgen $version (some minutes, once)"
    # It runs for half a second; the level of releases would take longer to compile, and gain nothing.
    CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
        cargo install wasm-bindgen-cli --version "$version" --root .tools --force --quiet
}

# A wasm-opt of binaryen 120 or newer, in $WASM_OPT.
need_wasm_opt() {
    local version
    version=$(wasm-opt --version 2>/dev/null | sed 's/[^0-9]*\([0-9]*\).*/\1/') || version=0
    if [ "${version:-0}" -ge 120 ]; then
        WASM_OPT=wasm-opt
    else
        need_node
        WASM_OPT=tests/node_modules/.bin/wasm-opt
    fi
}

# --- build -------------------------------------------------------------------

# What rustc emits for wasm32 by default, and SIMD.
WASM_FEATURES="--enable-bulk-memory --enable-bulk-memory-opt --enable-call-indirect-overlong --enable-multivalue
    --enable-mutable-globals --enable-nontrapping-float-to-int --enable-reference-types --enable-sign-ext --enable-simd"

# Functions that stay apart and lie beside their like compress better; LLVM has inlined what is hot.
WASM_OPTIMISE="-Oz --one-caller-inline-max-function-size=0 --reorder-functions-by-name"

# The engine, and the engine with the bench: what times a model is no weight to a page that runs one.
build_wasm() {
    need_rust
    need_wasm_bindgen
    need_wasm_opt
    need_node
    local state
    # Cargo has one place for either, so that asking it again would compile both anew.
    state=$({
        find src -type f -print0 | LC_ALL=C sort -z | xargs -0 cat
        cat Cargo.toml Cargo.lock build.sh tests/package-lock.json "$(command -v "$WASM_BINDGEN")"
        rustc -vV
    } | hash_stdin)
    if ! is_fresh wasm "$state" || [ ! -f pkg/wasm/bise_bg.wasm ] || [ ! -f pkg/wasm-bench/bise_bg.wasm ]; then
        compile_wasm wasm
        # rustc links the second one on one processor: the other packs the first meanwhile.
        pack_wasm wasm &
        compile_wasm wasm-bench --features bench
        wait "$!"
        pack_wasm wasm-bench
        mark_fresh wasm "$state"
    fi
    cat target/wasm-size target/wasm-bench-size
    local brotli
    brotli=$(sed 's/.* \([0-9]*\) brotli.*/\1/' target/wasm-size)
    [ "$brotli" -le "$BROTLI_LIMIT_BYTES" ] ||
        die "pkg/wasm/bise_bg.wasm is $brotli bytes with brotli, more than $BROTLI_LIMIT_BYTES"
}

# Compiles target/$1.wasm with what else cargo is told.
compile_wasm() {
    cargo build --release --lib --target "$WASM_TARGET" "${@:2}"
    cp "$TARGET/$WASM_TARGET/release/bise.wasm" "target/$1.wasm"
}

# Makes pkg/$1 of target/$1.wasm.
pack_wasm() {
    local name=$1 out=target/$1
    say "wasm-bindgen, wasm-opt: $name"
    rm -rf "$out" "pkg/$name"
    "$WASM_BINDGEN" --target web --out-dir "$out" --out-name bise "target/$name.wasm"
    # shellcheck disable=SC2086 # lists of flags
    "$WASM_OPT" $WASM_OPTIMISE $WASM_FEATURES "$out/bise_bg.wasm" -o "$out/opt.wasm"
    mv "$out/opt.wasm" "$out/bise_bg.wasm"
    mkdir -p pkg && mv "$out" "pkg/$name"
    measure_wasm "$name/bise_bg.wasm" >"target/$name-size"
}

# The size of the file $1 of the package.
measure_wasm() {
    # shellcheck disable=SC2016 # JavaScript's own expressions
    node -e '
        const [, name] = process.argv;
        const wasm = require("node:fs").readFileSync(`pkg/${name}`);
        const { gzipSync, brotliCompressSync } = require("node:zlib");
        const [gzip, brotli] = [gzipSync(wasm, { level: 9 }), brotliCompressSync(wasm)];
        console.log(`${name}: ${wasm.length} bytes, ${gzip.length} gzip, ${brotli.length} brotli`);' "$1"
}

# The client: www/bise/*.js and, made from their JSDoc, the types.
build_client() {
    need_node
    local state
    state=$(cat www/bise/*.js www/tsconfig*.json tests/package-lock.json | hash_stdin)
    is_fresh client "$state" && [ -f pkg/index.js ] && [ -f pkg/index.d.ts ] && return
    rm -f pkg/*.js pkg/*.d.ts
    cp -p www/bise/*.js pkg/
    tests/node_modules/.bin/tsc -p www/tsconfig.types.json
    mark_fresh client "$state"
}

build() {
    build_wasm
    build_client
}

# --- site --------------------------------------------------------------------

# Ends the program unless the folder $1 may be (over)written with a site.
check_site_dir() {
    local dir=$1 missing='' top
    top=$(pwd -P)
    # Links and .. must not hide where it really lies; what is not there yet can hide nothing else.
    while [ ! -d "$dir" ]; do
        missing=/$(basename "$dir")$missing
        dir=$(dirname "$dir")
    done
    case $missing/ in */../*) die "$1: there is no such folder to go up from" ;; esac
    dir=$(cd -P "$dir" && pwd -P)$missing
    case $top/ in "${dir%/}"/*) die "$1 holds this repository, which a site would overwrite: name another folder" ;; esac
    case $dir/ in "$top"/.* | "$top"/pkg/* | "$top"/src/* | "$top"/tests/* | "$top"/www/*)
        die "$1 lies in this repository's own folders, which a site would overwrite: name another folder" ;;
    esac
    [ -d "$dir" ] && [ -n "$(ls -A "$dir")" ] || return 0
    # A copy of this repository has the package, too, but no page beside it.
    if [ ! -f "$dir/index.html" ] || [ ! -f "$dir/pkg/wasm/bise_bg.wasm" ]; then
        die "$1 is not empty and holds no bise site: name another folder"
    fi
}

# The page and the package side by side in $1. Modification times stay, so that browsers revalidate.
assemble_site() {
    local dir=$1 entry
    need_node
    mkdir -p "$dir"
    # What the page imports from npm, as it was published: ES modules need no bundler.
    rm -rf "${dir:?}/vendor"
    mkdir -p "$dir/vendor/modern-tar/web"
    cp -p tests/node_modules/modern-tar/{LICENSE,dist/packer-*.js} "$dir/vendor/modern-tar/"
    cp -p tests/node_modules/modern-tar/dist/web/index.js "$dir/vendor/modern-tar/web/"
    for entry in www/*.html www/*.css www/*.svg www/*.js www/panels www/models pkg; do
        rm -rf "${dir:?}/$(basename "$entry")"
        cp -Rp "$entry" "$dir/"
    done
}

# shellcheck disable=SC2120 # its argument comes from the command line
site() {
    local dir=${1:-target/site}
    check_site_dir "$dir"
    build
    assemble_site "$dir"
    say "site in $dir"
}

serve() {
    build
    assemble_site target/site
    cargo build --bin bise
    exec "$TARGET/debug/bise" serve --dir target/site "$@"
}

bench() {
    # shellcheck source=tests/stages.sh
    . tests/stages.sh
    need_browsers
    need_node
    case ${1:-} in
        '')
            site
            node tests/browser/bench.js
            ;;
        native)
            bench --browser native "${@:2}"
            ;;
        --browser)
            local browser=${2:-} model=www/models/tale
            if [ $# -gt 2 ] && [ "${3#-}" = "$3" ]; then
                model=$3
                set -- "${@:1:2}" "${@:4}"
            fi
            bench_adapter "$browser" "$model" "${@:3}"
            ;;
        merge)
            need_smollm2
            need_mergekit
            site
            cargo build --profile native --bin bise
            "$TORCH_PYTHON" tests/merge_bench.py "$TARGET/native/bise" "$SMOLLM2"
            ;;
        cache)
            need_smollm2
            site
            node tests/browser/bench_cache.js
            ;;
        chat)
            site
            node tests/browser/bench_chat.js
            ;;
        cpu)
            site
            node tests/browser/bench_cpu.js
            ;;
        --backend)
            [ "${2:-}" = cpu ] || die "bench --backend takes cpu; bench alone runs on WebGPU"
            need_smollm2
            need_wllama
            site
            node tests/browser/bench_wllama.js
            ;;
        load)
            cargo build --bin bise
            site
            node tests/browser/bench_load.js "$TARGET"
            ;;
        *) die "there is no bench $1; there are: bench, bench --backend cpu, bench --browser, bench native, bench merge, bench cache, bench chat, bench cpu, bench load" ;;
    esac
}

# A model beside its adapter's limits, natively or in a browser.
bench_adapter() {
    local where=$1 model=$2 layers=target/models/mistral-7b-layers
    shift 2
    case $where in
        native)
            need_rust
            if [ "$model" = mistral-7b ]; then
                node tests/browser/bench_adapter.js --write "$layers"
                model=$layers
            fi
            cargo build --profile native --bin bise
            "$TARGET/native/bise" bench "$model" "$@"
            ;;
        chromium | firefox)
            site
            node tests/browser/bench_adapter.js "$where" "$model" "$@"
            ;;
        *) die "bench --browser takes chromium, firefox or native, not '$where'" ;;
    esac
}

clean() {
    rm -rf pkg/wasm* pkg/*.js pkg/*.d.ts target/site target/stamps target/wasm* target/models
    cargo clean
}

main() {
    local command=${1:-build}
    [ $# -eq 0 ] || shift
    case $command in
        build | site | serve | bench | clean) "$command" "$@" ;;
        test)
            # shellcheck source=tests/stages.sh
            . tests/stages.sh
            run_tests "$@"
            ;;
        -h | --help | help) usage ;;
        *)
            usage >&2
            exit 2
            ;;
    esac
}

main "$@"
