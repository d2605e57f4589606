# FETCH of a layer of npm packages: $@ are NAME or NAME@VERSION. Puts them where `npm install --global`
# has them, without running anything of theirs.
set -eu
echo "step fetching $(echo "$@" | sed 's/ /, /g') from npm" >&3

# What npm says comes with the error, whatever becomes of it.
said=/viv-build/job/npm.txt
if npm install --global --ignore-scripts -- "$@" >"$said" 2>&1 3>&-; then
    exit 0
fi
cat "$said"
grep -qE 'E404|ETARGET' "$said" || exit 1

# Which of them there is not, and what there is.
set +e
node - "$@" <<'JS'
const { spawnSync } = require("child_process");
const { writeSync } = require("fs");
const say = (line) => writeSync(3, line + "\n");
const ask = (...words) => {
    const { stdout } = spawnSync("npm", [...words, "--json"], { encoding: "utf8", maxBuffer: 1 << 28, stdio: ["ignore", "pipe", "ignore"] });
    try {
        return JSON.parse(stdout);
    } catch {
        return undefined;
    }
};
for (const spec of process.argv.slice(2)) {
    const [, name, version] = /^(@?[^@]+)@?(.*)$/.exec(spec);
    const versions = ask("view", name, "versions");
    if (versions?.error?.code === "E404") {
        say(`unknown ${name}`);
        const found = ask("search", name, "--searchlimit=50");
        for (const { name } of Array.isArray(found) ? found : []) say(`candidate ${name}`);
        process.exit(1);
    }
    const matching = version && !versions?.error && ask("view", spec, "version");
    if (matching === undefined || matching?.error?.code === "E404") {
        say(`unknown-version ${name} ${version}`);
        for (const version of [versions].flat().reverse()) say(`version ${name} ${version}`);
        process.exit(1);
    }
}
JS
exit 1
