# INSTALL of a layer of npm packages: $@ are NAME or NAME@VERSION, in their place already. Runs their
# scripts, and says what their versions are.
set -eu
# Headers of the image's own node: without them node-gyp looks for some in the network.
if [ -e /usr/include/node/node.h ]; then
    export npm_config_nodedir=/usr
fi
node - "$@" >/viv-build/job/scripts <<'JS'
const { existsSync, readdirSync, readFileSync, writeSync } = require("fs");
const modules = "/usr/local/lib/node_modules";
const read = (directory) => {
    try {
        return JSON.parse(readFileSync(`${directory}/package.json`, "utf8"));
    } catch {
        return undefined;
    }
};
const found = new Map();
const optional = new Set();
const needed = new Set();
const visit = (directory) => {
    const package = read(directory);
    if (!package) return;
    for (const name of Object.keys(package.optionalDependencies ?? {})) optional.add(name);
    for (const name of Object.keys(package.dependencies ?? {})) {
        if (!package.optionalDependencies?.[name]) needed.add(name);
    }
    const { preinstall, install, postinstall } = package.scripts ?? {};
    // npm builds a binding.gyp where no script says how to install.
    const gyp = !preinstall && !install && package.gypfile !== false && existsSync(`${directory}/binding.gyp`);
    if (preinstall || install || postinstall || gyp) found.set(`${package.name}@${package.version}`, package.name);
    const below = (parent) => {
        for (const entry of existsSync(parent) ? readdirSync(parent, { withFileTypes: true }) : []) {
            if (!entry.isDirectory() || entry.name.startsWith(".")) continue;
            (entry.name.startsWith("@") ? below : visit)(`${parent}/${entry.name}`);
        }
    };
    below(`${directory}/node_modules`);
};
for (const spec of process.argv.slice(2)) {
    const [, name] = /^(@?[^@]+)/.exec(spec);
    const directory = `${modules}/${name}`;
    needed.add(name);
    visit(directory);
    writeSync(3, `package ${name} ${read(directory).version}\n`);
}
for (const [spec, name] of found) console.log(optional.has(name) && !needed.has(name) ? "optional" : "needed", spec);
JS

needed=$(sed -n 's/^needed //p' /viv-build/job/scripts)
if [ -n "$needed" ]; then
    echo 'step running the scripts of npm packages' >&3
    # shellcheck disable=SC2086 # one word each
    npm rebuild --global --foreground-scripts -- $needed 3>&-
fi
# A package works without what it has as optional: npm itself goes on, too.
for spec in $(sed -n 's/^optional //p' /viv-build/job/scripts); do
    npm rebuild --global --foreground-scripts -- "$spec" 3>&- || echo "$spec is optional: going on without it"
done
