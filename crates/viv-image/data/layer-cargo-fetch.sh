# FETCH of a layer of programs from crates: $@ are NAME or NAME@VERSION. Fetches them and all that they need, as `cargo install` does before it compiles: the compiler that it
# is given answers questions, and compiles nothing. So no build script runs, and cargo alone decides
# what is needed.
set -eu
compiler=/viv-build/job/compiler
cat >"$compiler" <<'SH'
#!/bin/sh
for word; do
    case $word in
        -vV | --print | --print=*) exec "$@" ;;
    esac
done
: >/viv-build/job/compiling
exit 1
SH
chmod 0755 "$compiler"

said=/viv-build/job/cargo.txt
fetch() {
    rm -f /viv-build/job/compiling
    RUSTC_WRAPPER="$compiler" CARGO_TARGET_DIR=/viv-build/job/fetched cargo install \
        --config /viv-build/files/config.toml --locked --force --no-track --root /viv-build/job/none \
        -- "$1" >"$said" 2>&1 3>&- || :
    [ -e /viv-build/job/compiling ]
}

for spec; do
    echo "step fetching $spec by cargo" >&3
    if fetch "$spec"; then
        sed -n 's/^ *Installing \([^ ]*\) v\([^ ]*\).*$/\1@\2/p' "$said" >>/viv-build/job/crates
        continue
    fi
    cat "$said"

    name=${spec%%@*}
    # `hexyl 0.17.0`, it requires rustc 1.88 or newer, ... `hexyl 0.16.0` supports rustc 1.74
    if needs=$(grep -om1 'it requires rustc [0-9.]* or newer' "$said"); then
        version=$(sed -n 's/.*cannot install package `[^ ]* \([^`]*\)`.*/\1/p' "$said")
        has=$(rustc --version | cut -d ' ' -f 2)
        echo "refused $name ${version:-${spec##*@}} cannot be built here: $needs, and the image's is $has" >&3
        # Or `hexyl 0.2.0` has an unspecified minimum rustc version.
        older=$(sed -n -e 's/^`[^ ]* \([^`]*\)` supports .*/\1/p' -e 's/^`[^ ]* \([^`]*\)` has an unspecified .*/\1/p' "$said")
        [ -z "$older" ] || echo "hint cargo:$name@$older is older, and may do" >&3
    elif grep -q 'because it has no binaries' "$said"; then
        echo "refused $name is a library: it has no programs to install" >&3
    elif grep -q 'could not find `.*` in registry' "$said"; then
        if [ "$spec" != "$name" ] && { fetch "$name" || ! grep -q 'could not find `.*` in registry' "$said"; }; then
            echo "unknown-version $name ${spec#*@}" >&3
            # cargo keeps what an index has of a crate; the latest is the one that was asked just now.
            known=$(find "$CARGO_HOME/registry/index" -type f -path '*/.cache/*' -iname "$name")
            # shellcheck disable=SC2086 # none of cargo's own names has a space
            [ -z "$known" ] || grep -ao '"vers": *"[^"]*"' "$(ls -t $known | head -n 1)" | cut -d '"' -f 4 | tac |
                sed "s/^/version $name /" >&3
        else
            echo "unknown $name" >&3
            cargo search --config /viv-build/files/config.toml --limit 50 -- "$name" 2>/dev/null 3>&- |
                sed -n 's/^\([A-Za-z0-9_-]*\) = .*/candidate \1/p' >&3 || :
        fi
    fi
    exit 1
done
