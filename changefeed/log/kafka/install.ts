import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rename, rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);
const leastJava = 17;

/** deploy/kafka of this installation: the same from the sources and from dist/. */
export const deployDirectory = join(findRoot(dirname(fileURLToPath(import.meta.url))), 'deploy', 'kafka');

function findRoot(from: string): string {
  if (existsSync(join(from, 'deploy', 'kafka', 'pom.xml'))) return from;
  const parent = dirname(from);
  if (parent === from) throw new Error('deploy/kafka/pom.xml is missing from this installation');
  return findRoot(parent);
}

/** Where the jars that the pom lists are kept: under $XDG_CACHE_HOME or ~/.cache. Another pom, another directory. */
async function cacheDirectory(): Promise<string> {
  const pom = await readFile(join(deployDirectory, 'pom.xml'), 'utf8');
  const version = /<kafka\.version>([\w.-]+)<\/kafka\.version>/.exec(pom)?.[1];
  if (version === undefined) throw new Error('deploy/kafka/pom.xml names no kafka.version');
  const cache = process.env.XDG_CACHE_HOME || join(homedir(), '.cache');
  const digest = createHash('sha256').update(pom).digest('hex').slice(0, 8);
  return join(cache, 'conger', `kafka-${version}-${digest}`);
}

/** Java's major version, undefined where there is no Java. */
async function javaVersion(): Promise<number | undefined> {
  try {
    const { stderr } = await run('java', ['-version']);
    const major = /version "(\d+)/.exec(stderr)?.[1];
    return major === undefined ? undefined : Number(major);
  } catch {
    return undefined;
  }
}

async function hasMaven(): Promise<boolean> {
  try {
    await run('mvn', ['-version']);
    return true;
  } catch {
    return false;
  }
}

/** What must be installed before a Kafka broker can run here, in words for a user; undefined when nothing is missing. */
export async function missingForKafka(): Promise<string | undefined> {
  const java = await javaVersion();
  if (java === undefined || java < leastJava) {
    const found = java === undefined ? 'none was found' : `version ${java} was found`;
    return `Kafka needs Java ${leastJava} or newer, and ${found} (Debian: apt install openjdk-${leastJava}-jre-headless)`;
  }
  if (!existsSync(await cacheDirectory()) && !(await hasMaven())) {
    return 'Kafka is downloaded with Maven, and mvn was not found (Debian: apt install maven)';
  }
  return undefined;
}

/**
 * Makes sure that Kafka's jars are in the cache, and answers their directory. Processes that do this at the same time
 * download into directories of their own, Maven's repository included; the first to finish is the one that counts.
 * @param say is told when something is downloaded
 * @throws Error that names what to install, or has Maven's own last words
 */
export async function installKafka(say: (line: string) => void = () => {}): Promise<string> {
  const missing = await missingForKafka();
  if (missing !== undefined) throw new Error(missing);
  const jars = await cacheDirectory();
  if (existsSync(jars)) return jars;
  say('downloading Kafka (43 MB) from Maven Central');
  await mkdir(dirname(jars), { recursive: true });
  const draft = await mkdtemp(`${jars}.`);
  try {
    await download(draft);
    // Another process may have been first; its jars are as good.
    await rename(join(draft, 'jars'), jars).catch((error: unknown) => {
      if (!existsSync(jars)) throw error;
    });
  } finally {
    await rm(draft, { recursive: true, force: true });
  }
  return jars;
}

async function download(draft: string): Promise<void> {
  const jars = join(draft, 'jars');
  const args = [
    '--batch-mode',
    '--quiet',
    '--file',
    join(deployDirectory, 'pom.xml'),
    `-Dmaven.repo.local=${join(draft, 'repository')}`,
    'dependency:copy-dependencies',
    '-DincludeScope=runtime',
    `-DoutputDirectory=${jars}`,
  ];
  try {
    await run('mvn', args, { cwd: draft, maxBuffer: 16 << 20 });
  } catch (error) {
    const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string };
    const words = `${stdout}${stderr}`.trim().split('\n').slice(-12).join('\n');
    throw new Error(`Kafka could not be downloaded:\n${words}`, { cause: error });
  }
  const names = await readdir(jars);
  if (!names.some((name) => name.startsWith('kafka_2.13-'))) throw new Error('Maven fetched no Kafka');
}
