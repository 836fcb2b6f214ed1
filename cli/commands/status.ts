import { connect } from 'node:net';
import { parseArgs } from 'node:util';
import { messageOf } from '../../runtime/errors.ts';
import { hostsOf } from '../../runtime/postgres/hosts.ts';
import { type Endpoints, readEndpoints } from '../endpoints.ts';
import { Home } from '../home.ts';
import { replicated } from '../plan.ts';
import type { Command } from './command.ts';

const help = `Usage: conger status [options]

Asks each part of a running datacenter whether it answers. Exit status 0: all do; 1: not all; 3: none is running.

  --home DIR   the datacenter's home (default .conger)
  --help       this text
`;

const timeoutMs = 3_000;

interface Answer {
  readonly name: string;
  readonly where: string;
  readonly pid: number | undefined;
  /** Undefined when it answered as it should. */
  readonly problem: string | undefined;
}

async function pingHttp(url: string): Promise<string | undefined> {
  try {
    const response = await fetch(`${url}/ping`, { signal: AbortSignal.timeout(timeoutMs) });
    await response.arrayBuffer();
    return response.ok ? undefined : `answers ${response.status}`;
  } catch (error) {
    return error instanceof Error && error.cause !== undefined ? messageOf(error.cause) : messageOf(error);
  }
}

function reachTcp(host: string, port: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout: timeoutMs });
    const end = (problem: string | undefined) => {
      socket.destroy();
      resolve(problem);
    };
    socket.once('connect', () => end(undefined));
    socket.once('timeout', () => end('does not answer'));
    socket.once('error', (error) => end(error.message));
  });
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}

async function askAll(endpoints: Endpoints): Promise<Answer[]> {
  const pidOf = (name: string) => endpoints.processes.find((entry) => entry.name === name)?.pid;
  const ask = async (
    name: string,
    where: string,
    question: Promise<string | undefined>,
  ): Promise<Answer> => ({
    name,
    where,
    pid: pidOf(name),
    problem: await question,
  });
  const tcp = (name: string, url: string) => {
    const { hostname, port } = new URL(url);
    return ask(name, url, reachTcp(hostname, Number(port)));
  };
  const answers = [
    ...hostsOf(endpoints.postgres).map((url, i) => {
      const { host, hostname, port } = new URL(url);
      return ask(`postgres${i}`, host, reachTcp(hostname || '127.0.0.1', Number(port || 5432)));
    }),
    ...(endpoints.kafka ?? []).map((broker, i) => tcp(`kafka${i}`, `tcp://${broker}`)),
    ...endpoints.capture.map((url, i) => ask(`capture${i}`, url, pingHttp(url))),
    ...endpoints.kvstore.map((url, i) => tcp(`kvstore${i}`, url)),
    ...[...replicated, 'adminui' as const].flatMap((service) =>
      endpoints[service].map((url, i) => ask(`${service}${i}`, url, pingHttp(url))),
    ),
  ];
  const asked = await Promise.all(answers);
  // Agents are not called by anyone: they answer by being there.
  const agents = endpoints.nodes.map((_, i) => {
    const name = `agent${i}`;
    const pid = pidOf(name);
    return { name, where: '', pid, problem: pid !== undefined && isAlive(pid) ? undefined : 'does not run' };
  });
  return [...asked, ...agents];
}

async function run(args: string[]): Promise<number> {
  const { values } = parseArgs({ args, options: { home: { type: 'string', default: '.conger' } } });
  const home = new Home(values.home);
  let endpoints: Endpoints;
  try {
    endpoints = await readEndpoints(home.endpoints);
  } catch (error) {
    const absent = error instanceof Error && 'code' in error && error.code === 'ENOENT';
    const reason = absent ? 'no datacenter is up' : messageOf(error);
    process.stdout.write(`${home.path}: ${reason}\n`);
    return 3;
  }
  const answers = await askAll(endpoints);
  for (const { name, where, pid, problem } of answers) {
    const state = problem === undefined ? 'ok' : `FAILS: ${problem}`;
    process.stdout.write(
      `${name.padEnd(10)} ${String(pid ?? '-').padStart(8)}  ${where.padEnd(26)} ${state}\n`,
    );
  }
  const failing = answers.filter(({ problem }) => problem !== undefined).length;
  process.stdout.write(`${answers.length - failing} of ${answers.length} answer\n`);
  return failing === 0 ? 0 : 1;
}

export const status: Command = { help, run };
