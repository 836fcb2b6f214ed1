import { execFile, spawn } from 'node:child_process';
import { accessSync, constants, readFileSync, realpathSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { messageOf } from '../runtime/errors.ts';

const run = promisify(execFile);

/** What Conger can do only with programs that npm does not bring. */
export type Need = 'netns' | 'kafka' | 'browser' | 'model';

interface Tool {
  readonly need: Need;
  readonly command: string;
  /** Debian packages that bring it; the first that Debian has is taken. */
  readonly packages: readonly string[];
  readonly usable?: (path: string) => Promise<boolean>;
}

const tools: readonly Tool[] = [
  { need: 'netns', command: 'nft', packages: ['nftables'] },
  { need: 'netns', command: 'ip', packages: ['iproute2'] },
  { need: 'netns', command: 'bridge', packages: ['iproute2'] },
  { need: 'netns', command: 'ping', packages: ['iputils-ping'] },
  {
    need: 'kafka',
    command: 'java',
    packages: ['default-jre-headless', 'openjdk-21-jre-headless', 'openjdk-17-jre-headless'],
    usable: async (path) => (await javaVersion(path)) >= 17,
  },
  { need: 'kafka', command: 'mvn', packages: ['maven'] },
  { need: 'browser', command: 'chromium', packages: ['chromium'] },
  { need: 'model', command: 'spin', packages: ['spin'] },
  { need: 'model', command: 'gcc', packages: ['build-essential'] },
];

const purpose: Readonly<Record<Need, string>> = {
  netns: 'compute nodes with real networking (else they are simulated)',
  kafka: 'Kafka (else the log is the embedded one)',
  browser: 'the tests of adminui in a browser',
  model: 'the check of the changefeed’s model',
};

/** `PATH`, with the directories that an ordinary login leaves out and where nft and ip are. */
export function searchPath(): string {
  const path = (process.env.PATH ?? '').split(':').filter(Boolean);
  const more = ['/usr/local/sbin', '/usr/sbin', '/sbin', '/usr/bin', '/bin'];
  return [...path, ...more.filter((directory) => !path.includes(directory))].join(':');
}

/** The path of a program, undefined when there is none. */
export function findCommand(command: string): string | undefined {
  for (const directory of searchPath().split(':')) {
    const path = join(directory, command);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {}
  }
  return undefined;
}

/** Java's major version; 0 when it cannot be told. */
async function javaVersion(path: string): Promise<number> {
  try {
    const home = dirname(dirname(realpathSync(path)));
    const release = readFileSync(join(home, 'release'), 'utf8');
    return Number(/^JAVA_VERSION="(\d+)/m.exec(release)?.[1] ?? 0);
  } catch {
    const { stderr } = await run(path, ['-version']).catch(() => ({ stderr: '' }));
    return Number(/version "(\d+)/.exec(stderr)?.[1] ?? 0);
  }
}

async function missing(needs: readonly Need[]): Promise<Tool[]> {
  const found = await Promise.all(
    tools
      .filter((tool) => needs.includes(tool.need))
      .map(async (tool) => {
        const path = findCommand(tool.command);
        const usable = path !== undefined && (tool.usable === undefined || (await tool.usable(path)));
        return usable ? [] : [tool];
      }),
  );
  return found.flat();
}

/** Whether everything that `need` takes is there. */
export async function isInstalled(need: Need): Promise<boolean> {
  return (await missing([need])).length === 0;
}

function isDebian(): boolean {
  try {
    return (
      /^ID(_LIKE)?=.*debian/m.test(readFileSync('/etc/os-release', 'utf8')) &&
      findCommand('apt-get') !== undefined
    );
  } catch {
    return false;
  }
}

function apt(...args: string[]): Promise<void> {
  const options = ['-y', '-qq', '-o', 'DPkg::Lock::Timeout=300', '-o', 'Acquire::Retries=3'];
  return new Promise((resolve, reject) => {
    const child = spawn('apt-get', [...options, ...args], {
      env: { ...process.env, PATH: searchPath(), DEBIAN_FRONTEND: 'noninteractive' },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    child.stdout.on('data', (chunk) => {
      output += chunk;
    });
    child.stderr.on('data', (chunk) => {
      output += chunk;
    });
    child.once('error', reject);
    child.once('close', (code) => {
      if (code === 0) resolve();
      else
        reject(
          new Error(`apt-get ${args.join(' ')} failed: ${output.trim().split('\n').slice(-3).join(' ')}`),
        );
    });
  });
}

async function knows(name: string): Promise<boolean> {
  const { stdout } = await run('apt-cache', ['policy', name]).catch(() => ({ stdout: '' }));
  return /Candidate: (?!\(none\))/.test(stdout);
}

async function installPackages(wanted: readonly Tool[], say: (line: string) => void): Promise<void> {
  const lists = await readdir('/var/lib/apt/lists').catch(() => []);
  let updated = false;
  if (!lists.some((name) => name.includes('_Packages'))) {
    await apt('update');
    updated = true;
  }
  const names = new Set<string>();
  for (const tool of wanted) {
    let name = tool.packages[0] ?? tool.command;
    for (const candidate of tool.packages) {
      if (!(await knows(candidate))) continue;
      name = candidate;
      break;
    }
    names.add(name);
  }
  say(`installing ${[...names].join(', ')} (--no-install declines)`);
  const install = ['install', '--no-install-recommends', ...names];
  try {
    await apt(...install);
  } catch (error) {
    // Lists that are there may still name packages that the mirror has since replaced.
    if (updated) throw error;
    await apt('update');
    await apt(...install);
  }
}

/**
 * Installs what `needs` take where that can be done (as root on Debian), else says what to install.
 * @returns the needs that are met
 */
export async function provide(
  needs: readonly Need[],
  options: { readonly decline: boolean; readonly say: (line: string) => void },
): Promise<Set<Need>> {
  const wanted = await missing(needs);
  if (wanted.length > 0 && !options.decline && process.getuid?.() === 0 && isDebian()) {
    try {
      await installPackages(wanted, options.say);
    } catch (error) {
      options.say(messageOf(error));
    }
  }
  const met = new Set<Need>(needs);
  for (const need of needs) {
    const lacking = await missing([need]);
    if (lacking.length === 0) continue;
    met.delete(need);
    const names = lacking.map((tool) => `${tool.command} (Debian: ${tool.packages.at(-1)})`);
    options.say(`for ${purpose[need]}, install ${names.join(', ')}`);
  }
  return met;
}

/** Before `npm test`: returns what is wrong when CI, which must skip nothing, lacks a program. */
export async function prepareTests(say: (line: string) => void): Promise<string | undefined> {
  const needs: Need[] = ['kafka', 'browser', 'model'];
  if (process.platform === 'linux') needs.push('netns');
  const met = await provide(needs, { decline: process.env.CONGER_NO_INSTALL === '1', say });
  const unmet = needs.filter((need) => !met.has(need));
  if (!process.env.CI || unmet.length === 0) return undefined;
  return `CI is set, and these tests could not run: ${unmet.join(', ')}`;
}
