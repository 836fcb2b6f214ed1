import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { findCommand } from '../../cli/install.ts';
import { unzip } from './unzip.ts';

const run = promisify(execFile);

const version = '1.26.8';
/** SHA-256 of Go's toolchain, as the module proxy has it, for each platform. */
const toolchains: Readonly<Record<string, string>> = {
  'linux-amd64': '30c2b1bf7dcc88d3eb0a1364e47ddd9128edb3110a30e8a0ef61cd5856b31de7',
  'linux-arm64': '02b36b6787b3ac767668f630e2998df45a3b1f9ffee08d1bf3ef6487cd658d99',
  'darwin-amd64': 'fe99a2009e5bb51e06d7784f1a486478673512041c2671157bd382806e2aedcf',
  'darwin-arm64': '0aad5fb52b88498885290178adc0bcfe429bc63012621af9f83282eb640bd9c7',
};

/** A directory under $XDG_CACHE_HOME or ~/.cache that holds what tests have downloaded or built. */
export function cacheDirectory(name: string): string {
  return join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'conger', name);
}

/**
 * The `go` command: that of this machine, or else one that is downloaded into the cache (70 MB).
 * @throws Error where there is none and it cannot be downloaded
 */
export async function findGo(say: (line: string) => void): Promise<string> {
  for (const go of [findCommand('go'), '/usr/local/go/bin/go']) {
    if (go !== undefined && existsSync(go)) return go;
  }
  return installGo(say);
}

/** Downloads Go from the module proxy, where its toolchains are; see https://go.dev/doc/toolchain. */
export async function installGo(say: (line: string) => void): Promise<string> {
  const platform = `${process.platform}-${process.arch === 'x64' ? 'amd64' : process.arch}`;
  const digest = toolchains[platform];
  if (digest === undefined)
    throw new Error(`install Go (https://go.dev/dl): there is none for ${platform} here`);
  const home = cacheDirectory(`go-${version}-${platform}`);
  const go = join(home, 'bin', 'go');
  if (existsSync(go)) return go;
  const module = `v0.0.1-go${version}.${platform}`;
  say(`downloading Go ${version} (70 MB) from proxy.golang.org`);
  const response = await fetch(`https://proxy.golang.org/golang.org/toolchain/@v/${module}.zip`);
  if (!response.ok)
    throw new Error(`Go could not be downloaded: proxy.golang.org answered ${response.status}`);
  const archive = Buffer.from(await response.arrayBuffer());
  const found = createHash('sha256').update(archive).digest('hex');
  if (found !== digest) throw new Error(`Go was downloaded, and is not what was expected: SHA-256 ${found}`);
  await mkdir(dirname(home), { recursive: true });
  const draft = await mkdtemp(`${home}.`);
  try {
    const prefix = `golang.org/toolchain@${module}/`;
    for (const { name, data } of unzip(archive)) {
      const path = join(draft, name.slice(prefix.length));
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, data);
      // The archive keeps no modes.
      if (/\/(bin|pkg\/tool)\//.test(name)) await chmod(path, 0o755);
    }
    // Another process may have been first; its Go is as good.
    await rename(draft, home).catch((error: unknown) => {
      if (!existsSync(go)) throw error;
    });
  } finally {
    await rm(draft, { recursive: true, force: true });
  }
  return go;
}

/** Builds the Go module in `directory` into the file `output`; its modules come from Go's own cache, or the proxy. */
export async function goBuild(go: string, directory: string, output: string): Promise<void> {
  const env = { ...process.env, GOTOOLCHAIN: 'local', GOFLAGS: '-mod=readonly', CGO_ENABLED: '0' };
  try {
    await run(go, ['build', '-trimpath', '-o', output, '.'], { cwd: directory, env });
  } catch (error) {
    const { stderr = '' } = error as { stderr?: string };
    throw new Error(`go build failed:\n${stderr.trim()}`, { cause: error });
  }
}
