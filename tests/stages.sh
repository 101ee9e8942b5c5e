# shellcheck shell=bash
# The stages of `./build.sh test`; build.sh sources this file. Each stage sees to
# its own needs, so that it also runs alone, and a second run finds them met.

STAGES=(needs fmt clippy doc structure wgsl native-lavapipe native-limits native-swiftshader build tsc js browser-chromium browser-firefox transformers)
FIREFOX_AT_LEAST=141 # the first with WebGPU
SMOLLM2=target/models/smollm2-135m
# Run by `./build.sh test --seven-billion` alone: an hour, 11 GiB of free memory, 10 GB of disk.
SEVEN_BILLION=seven-billion

# --- needs -------------------------------------------------------------------

# The first of the commands and files named that exists.
first_of() {
    local candidate
    for candidate; do
        if [ -e "$candidate" ] || have "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

chromium_command() { first_of chromium chromium-browser google-chrome; }
firefox_command() { first_of firefox firefox-esr; }
lavapipe_driver() { first_of /usr/share/vulkan/icd.d/lvp_icd*.json; }
swiftshader_driver() {
    first_of /usr/lib/chromium/vk_swiftshader_icd.json /usr/lib/chromium-browser/vk_swiftshader_icd.json \
        /opt/google/chrome/vk_swiftshader_icd.json
}
vulkan_loader() { first_of /usr/lib/*/libvulkan.so.1 /usr/lib64/libvulkan.so.1 /usr/lib/libvulkan.so.1; }

need_browsers() {
    local missing=()
    chromium_command >/dev/null || missing+=(chromium)
    firefox_command >/dev/null || missing+=(firefox-esr)
    lavapipe_driver >/dev/null || missing+=(mesa-vulkan-drivers)
    vulkan_loader >/dev/null || missing+=(libvulkan1)
    [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
    chromium_command >/dev/null || die "Chromium is missing"
    firefox_command >/dev/null || die "Firefox is missing"
    vulkan_loader >/dev/null || die "the Vulkan loader is missing (libvulkan.so.1)"
    lavapipe_driver >/dev/null || die "Mesa's lavapipe is missing (no /usr/share/vulkan/icd.d/lvp_icd*.json)"
    swiftshader_driver >/dev/null || die "Chromium's SwiftShader is missing (vk_swiftshader_icd.json beside Chromium)"
    local version
    version=$("$(firefox_command)" --version 2>/dev/null | sed 's/[^0-9]*\([0-9]*\).*/\1/')
    [ "${version:-0}" -ge "$FIREFOX_AT_LEAST" ] ||
        die "Firefox $version has no WebGPU: install $FIREFOX_AT_LEAST or newer"
}

# Python with numpy, in .tools/venv.
need_numpy() {
    .tools/venv/bin/python -c 'import gguf, numpy' 2>/dev/null && return
    python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages python3 python3-venv
    python3 -m venv --clear .tools/venv
    .tools/venv/bin/python -m pip install --quiet -r tests/requirements.txt
}

# A real instruction-tuned model, made once (a download of about 100 MB).
need_smollm2() {
    [ -d "$SMOLLM2" ] && return
    need_numpy
    say "making $SMOLLM2"
    .tools/venv/bin/python tests/smollm2_checkpoint.py "$SMOLLM2"
}

# llama.cpp in wasm from npm, and the same model as it takes it: what the CPU's bench runs beside bise.
# Without them it says so, and compares with recorded figures.
WLLAMA_VERSION=3.13.0
need_wllama() {
    local gguf=$SMOLLM2.Q8_0.gguf
    is_fresh wllama "$WLLAMA_VERSION" || {
        say "installing wllama $WLLAMA_VERSION"
        npm install --prefix .tools/wllama --no-save --loglevel=error --no-progress "@wllama/wllama@$WLLAMA_VERSION" || return 0
        mark_fresh wllama "$WLLAMA_VERSION"
    }
    [ -f "$gguf" ] && return
    need_numpy
    say "making $gguf"
    .tools/venv/bin/python tests/smollm2_gguf.py "$gguf"
}

TORCH_PYTHON=.tools/venv-torch/bin/python

# What tests/requirements-$1.txt names, into .tools/venv-torch.
pip_install() {
    "$TORCH_PYTHON" -m pip install --quiet --no-cache-dir -r "tests/requirements-$1.txt" && return
    die "pip could not install tests/requirements-$1.txt (see above); torch takes 6 GB, and $(df -h . | awk 'END { print $4 }') are free"
}

# torch and transformers.
need_transformers() {
    python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages python3 python3-venv
    local wanted
    wanted=$(hash_stdin <tests/requirements-transformers.txt)
    is_fresh transformers "$wanted" && [ -x "$TORCH_PYTHON" ] && return
    say "installing torch and transformers (3 GB to download, 6 GB installed, once)"
    rm -f "$STAMPS/mergekit"
    python3 -m venv --clear "$(dirname "$(dirname "$TORCH_PYTHON")")"
    pip_install transformers
    mark_fresh transformers "$wanted"
}

# mergekit besides.
need_mergekit() {
    need_transformers
    local wanted
    wanted=$(cat tests/requirements-transformers.txt tests/requirements-mergekit.txt | hash_stdin)
    is_fresh mergekit "$wanted" && return
    say "installing mergekit"
    pip_install mergekit
    mark_fresh mergekit "$wanted"
}

# --- stages ------------------------------------------------------------------

stage_needs() {
    need_rust
    if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
        rustup component add rustfmt clippy
    fi
    need_node
    need_wasm_bindgen
    need_browsers
    need_smollm2
    "$(chromium_command)" --version 2>/dev/null
    "$(firefox_command)" --version 2>/dev/null
    rustc --version
}

stage_fmt() { cargo fmt --check; }

stage_clippy() {
    need_rust
    cargo clippy --all-targets -- -D warnings
    cargo clippy --lib --target "$WASM_TARGET" -- -D warnings
    cargo clippy --lib --target "$WASM_TARGET" --features bench -- -D warnings
}

stage_doc() { RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --lib; }

stage_structure() { cargo test --test structure; }

# Every shader through naga; a shader without such a test fails here.
stage_wgsl() {
    if compgen -G "src/kernels/*.wgsl" >/dev/null; then
        cargo test --test 'gpu*' wgsl | tee target/wgsl.log
        grep -q 'test result: ok. [1-9]' target/wgsl.log || die "there are shaders but no test named wgsl in tests/gpu*"
    else
        say "no shaders yet"
    fi
}

# With only the Vulkan driver $1 visible, and its adapter insisted on by the name $2.
with_adapter() {
    local driver=$1 name=$2
    shift 2
    VK_DRIVER_FILES=$driver VK_ICD_FILENAMES=$driver BISE_ADAPTER=$name "$@"
}

# Runs two functions at a time, the second one's output behind the first one's, until then in target/test-logs/. A process
# that compiles for SwiftShader, which lets in one thread at a time, leaves a third of two processors idle.
side_by_side() {
    local log=target/test-logs/$2.log status beside
    mkdir -p target/test-logs
    set -m # a group of its own, which an interrupt ends as well
    (
        set -e
        "$2"
    ) >"$log" 2>&1 </dev/null &
    beside=$!
    set +m
    trap 'kill -- "-$beside"' INT TERM
    set +e
    (
        set -e
        "$1"
    )
    status=$?
    wait "$beside" || status=$?
    set -e
    trap - INT TERM
    cat "$log"
    return "$status"
}

stage_native-lavapipe() {
    need_browsers
    need_smollm2
    local file name driver long=(memory perplexity smollm2) other=(--lib --bins)
    driver=$(lavapipe_driver)
    for file in tests/*.rs tests/*/main.rs; do
        name=${file#tests/}
        name=${name%/main.rs}
        name=${name%.rs}
        [[ " ${long[*]} " == *" $name "* ]] || other+=("--test=$name")
    done
    cargo test --no-run
    long_tests() { with_adapter "$driver" llvmpipe cargo test --no-fail-fast "${long[@]/#/--test=}"; }
    other_tests() {
        local status=0
        cargo test --doc || status=$?
        with_adapter "$driver" llvmpipe cargo test --no-fail-fast "${other[@]}" || status=$?
        return "$status"
    }
    side_by_side other_tests long_tests
}

# The GPU's tests of what is split over bindings, at WebGPU's default limits, which come without subgroups, and with the
# smallest storage binding that they fit; whole models at the former, and with a binding that splits every matrix of
# theirs. Single kernels get buffers of the test's own sizes whatever the limit, and run without subgroups as well, so
# that they would only be compiled once more. Of the tests of whole models, those that take BISE_LIMITS: the others say
# themselves which limits they want, and would only run once more.
stage_native-limits() {
    need_browsers
    local driver models=(alike bench choices layouts requests tuning)
    driver=$(lavapipe_driver)
    cargo test --no-run --test gpu --test gpu_model
    limited() {
        local limits=$1
        shift
        BISE_LIMITS=$limits with_adapter "$driver" llvmpipe cargo test --no-fail-fast --test "$@"
    }
    small_bindings() { limited 22000 gpu_model -- "${models[@]}"; }
    other_limits() {
        local limits
        for limits in default 262144; do
            limited "$limits" gpu -- decoder merge rows sample split
        done
        limited default gpu_model -- "${models[@]}"
    }
    side_by_side other_limits small_bindings
}

# Only the tests that touch a GPU: tests/gpu* and tests/cli*. FP8 checkpoints in every layout run on this adapter in
# Chromium (tests/browser/layouts.e2e.js): natively, compiling for each of them once more would take minutes.
stage_native-swiftshader() {
    need_browsers
    need_smollm2
    local driver models=(alike bench choices golden limits merge requests tuning)
    driver=$(swiftshader_driver)
    cargo test --no-run --test 'cli*' --test 'gpu*'
    on_swiftshader() { with_adapter "$driver" SwiftShader cargo test --no-fail-fast "$@"; }
    whole_models() { on_swiftshader --test gpu_model -- "${models[@]}"; }
    kernels() { on_swiftshader --test 'cli*' --test gpu --test gpu_adapter --test gpu_large; }
    side_by_side kernels whole_models
}

stage_build() { site; }

stage_tsc() {
    build
    local project
    for project in www/tsconfig.json tests/tsconfig.json tests/tsconfig.pkg.json; do
        tests/node_modules/.bin/tsc -p "$project"
    done
}

node_tests() { node --test --test-reporter=spec --test-concurrency=1 "$@"; }

stage_js() {
    need_node
    node_tests tests/js/*.test.js
}

browser_tests() {
    need_browsers
    need_node
    need_smollm2
    need_numpy
    site
    # Two files at a time, each with a browser of its own: one alone leaves a third of two processors idle.
    BROWSER=$1 node_tests --test-concurrency=2 tests/browser/*.e2e.js
}
stage_browser-chromium() { browser_tests chromium; }
stage_browser-firefox() { browser_tests firefox; }

# Merged and exported checkpoints, loaded by others.
stage_transformers() {
    need_browsers
    need_transformers
    cargo build --bin bise
    with_adapter "$(lavapipe_driver)" llvmpipe "$TORCH_PYTHON" tests/transformers_check.py "$TARGET/debug/bise"
}

# Mistral 7B's shape in full, streamed from a server that computes it.
stage_seven-billion() {
    need_browsers
    need_node
    need_numpy
    site
    BROWSER=chromium node_tests tests/browser/seven_billion.js
}

# --- running -----------------------------------------------------------------

# Adds what the test runners reported in the log $1 to PASSED, FAILED and SKIPPED.
count_tests() {
    local counts
    counts=$(awk '
        { gsub(/\033\[[0-9;]*m/, "") }
        /^test result: / { passed += $4; failed += $6; skipped += $8 }            # cargo
        /^[0-9]+ passed, [0-9]+ failed$/ { passed += $1; failed += $3 }            # tests/*.py
        /^(ℹ|#) pass [0-9]+$/ { passed += $3 }                                     # node
        /^(ℹ|#) (fail|cancelled) [0-9]+$/ { failed += $3 }
        /^(ℹ|#) (skipped|todo) [0-9]+$/ { skipped += $3 }
        END { print passed + 0, failed + 0, skipped + 0 }' "$1")
    read -r STAGE_PASSED STAGE_FAILED STAGE_SKIPPED <<<"$counts"
}

# The stages that begin with one of the words given; all of them without a word.
selected_stages() {
    local stage word found
    [ $# -gt 0 ] || printf '%s\n' "${STAGES[@]}"
    for word; do
        found=
        for stage in "${STAGES[@]}"; do
            case $stage in "$word"*) found=1 && printf '%s\n' "$stage" ;; esac
        done
        [ -n "$found" ] || die "no stage $word; there are: ${STAGES[*]}"
    done
}

# Runs one stage, its output also in target/test-logs/; adds to the totals.
run_stage() {
    local stage=$1 log=target/test-logs/$1.log began=$SECONDS status
    printf '\n=== %s\n' "$stage"
    set +e
    (
        set -e
        "stage_$stage"
    ) 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    set -e
    count_tests "$log"
    # A stage without a test runner is one check.
    [ $((STAGE_PASSED + STAGE_FAILED)) -gt 0 ] || [ "$status" != 0 ] || [ "$stage" = needs ] || STAGE_PASSED=1
    [ "$status" = 0 ] || [ "$STAGE_FAILED" -gt 0 ] || STAGE_FAILED=1
    PASSED=$((PASSED + STAGE_PASSED)) FAILED=$((FAILED + STAGE_FAILED)) SKIPPED=$((SKIPPED + STAGE_SKIPPED))
    [ "$status" = 0 ] && [ "$STAGE_SKIPPED" = 0 ] || BAD_STAGES+=("$stage")
    REPORT+=("$(printf '%-20s %5s passed %4s failed %4s skipped %5s s' "$stage" "$STAGE_PASSED" "$STAGE_FAILED" \
        "$STAGE_SKIPPED" $((SECONDS - began)))")
}

run_tests() {
    if [ "${1:-}" = --list ]; then
        printf '%s\n' "${STAGES[@]}"
        return
    fi
    # What lets a cargo test by hand do less must not let these pass.
    unset BISE_NO_GPU BISE_NO_SMOLLM2 BISE_NO_MOUNT BISE_LIMITS BISE_ADAPTER SEVEN_BILLION_SIZE
    local selected stage
    if [ "${1:-}" = --seven-billion ]; then
        [ $# = 1 ] || die "--seven-billion runs alone"
        selected=$SEVEN_BILLION
    else
        selected=$(selected_stages "$@")
    fi
    PASSED=0 FAILED=0 SKIPPED=0 REPORT=() BAD_STAGES=()
    mkdir -p target/test-logs
    for stage in $selected; do
        # Its packages have been coming since the needs were met; what went wrong, the stage meets again, and tells.
        [ "$stage" != transformers ] || wait
        run_stage "$stage"
        if [ "$stage" = needs ] && [ "${#BAD_STAGES[@]}" = 0 ] && [[ $selected == *transformers* ]]; then
            need_transformers >target/test-logs/transformers-packages.log 2>&1 &
        fi
        # Without its needs the rest would only repeat what is missing.
        [ "$stage" != needs ] || [ "${#BAD_STAGES[@]}" = 0 ] || break
    done
    printf '\n'
    printf '%s\n' "${REPORT[@]}"
    for stage in ${BAD_STAGES[@]+"${BAD_STAGES[@]}"}; do
        printf 'failed or skipped: %s (alone: ./build.sh test %s; its output: target/test-logs/%s.log)\n' \
            "$stage" "${stage/#$SEVEN_BILLION/--$SEVEN_BILLION}" "$stage"
    done
    printf '\n%s passed, %s failed\n' "$PASSED" "$FAILED"
    [ "${#BAD_STAGES[@]}" = 0 ] # a skipped test is a failure too
}
