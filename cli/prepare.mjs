/**
 * Runs before `npm start` and `npm test`, on a Node that has nothing but itself: no dependency, no TypeScript.
 * It leaves node_modules as the lockfile says and dist/ as the sources say, and does nothing where they already are.
 */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const stamp = join(root, 'dist', '.built');

function fail(message) {
  process.stderr.write(`conger: ${message}\n`);
  process.exit(1);
}

function say(message) {
  process.stdout.write(`conger: ${message}\n`);
}

function read(path) {
  try {
    return readFileSync(join(root, path), 'utf8');
  } catch {
    return undefined;
  }
}

function checkNode() {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  if (major > 20 || (major === 20 && minor >= 11)) return;
  fail(`Node ${process.versions.node} is too old: Conger needs Node 20.11 or newer (https://nodejs.org)`);
}

/** Why node_modules is not what the lockfile asks for; undefined when it is. */
function staleModules() {
  const wanted = JSON.parse(read('package-lock.json') ?? '{}').packages ?? {};
  // npm writes this file last, so a half-finished install has none.
  const found = read('node_modules/.package-lock.json');
  if (found === undefined) return 'node_modules is missing';
  const installed = JSON.parse(found).packages ?? {};
  for (const [path, entry] of Object.entries(wanted)) {
    if (path === '') continue;
    const there = installed[path];
    // Optional packages of other platforms are never installed.
    if (there === undefined && entry.optional) continue;
    if (there?.version !== entry.version || there?.integrity !== entry.integrity) {
      return `${path} is not what package-lock.json asks for`;
    }
  }
  return undefined;
}

function install(why) {
  say(`installing packages (${why})`);
  const args = ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'];
  const npm = process.env.npm_execpath;
  const [file, prefix] =
    npm !== undefined && /\.[cm]?js$/.test(npm) ? [process.execPath, [npm]] : ['npm', []];
  // Dev dependencies hold the compiler: a NODE_ENV of production must not leave them out.
  const options = { cwd: root, stdio: 'inherit', env: { ...process.env, NODE_ENV: 'development' } };
  const { status, error } = spawnSync(
    file,
    [...prefix, ...args, '--include=dev', '--include=optional'],
    options,
  );
  if (status !== 0) fail(`npm ci failed${error ? `: ${error.message}` : ''}; see above`);
}

/** Every source that goes into dist/, with the newest modification time among them. */
function sources() {
  const { include } = JSON.parse(read('tsconfig.json'));
  const files = [];
  let newest = statSync(join(root, 'tsconfig.json')).mtimeMs;
  const visit = (directory) => {
    for (const entry of readdirSync(join(root, directory), { withFileTypes: true })) {
      const path = join(directory, entry.name);
      if (entry.isDirectory()) {
        if (entry.name !== 'node_modules') visit(path);
      } else if (/\.ts$/.test(entry.name) && !/\.test\.ts$/.test(entry.name)) {
        files.push(path);
        newest = Math.max(newest, statSync(join(root, path)).mtimeMs);
      }
    }
  };
  for (const directory of include) visit(directory);
  return { files, newest };
}

function build() {
  const { files, newest } = sources();
  let built;
  try {
    const { mtimeMs } = statSync(stamp);
    built = readFileSync(stamp, 'utf8').split('\n');
    if (mtimeMs > newest && built.length === files.length && built.every((f, i) => f === files[i])) return;
  } catch {
    built = undefined;
  }
  // What a source that is gone has left in dist/ must go too.
  const present = new Set(files);
  if (built === undefined || built.some((file) => !present.has(file))) {
    rmSync(join(root, 'dist'), { recursive: true, force: true });
  }
  say('building');
  const started = new Date();
  const compiler = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
  const { status } = spawnSync(process.execPath, [compiler], { cwd: root, stdio: 'inherit' });
  if (status !== 0) fail('the build failed; see above');
  writeFileSync(stamp, files.join('\n'));
  // A source that changed during the build is newer than the stamp.
  utimesSync(stamp, started, started);
  say(`built in ${((Date.now() - started) / 1000).toFixed(1)} s`);
}

async function installTools() {
  const { prepareTests } = await import(new URL('../dist/cli/install.js', import.meta.url).href);
  const problem = await prepareTests(say);
  if (problem !== undefined) fail(problem);
}

checkNode();
const why = staleModules();
if (why !== undefined) install(why);
build();
if (process.env.npm_lifecycle_event === 'pretest') await installTools();
