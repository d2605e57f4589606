# INSTALL of a layer of programs from crates: compiles what was fetched. The programs are all that is kept.
set -eu
while read -r crate; do
    echo "step compiling $crate" >&3
    cargo install --config /viv-build/files/config.toml --offline --locked --force --no-track --root /usr/local \
        -- "$crate" 3>&- </dev/null
    echo "package ${crate%@*} ${crate#*@}" >&3
done </viv-build/job/crates
