import { randomUUID } from 'node:crypto';
import { parseArgs } from 'node:util';
import { hostsOf } from '../../runtime/postgres/hosts.ts';
import { type Datacenter, startDatacenter } from '../datacenter.ts';
import type { DatacenterOptions } from '../options.ts';
import { defaultPortBase, mostCaptures } from '../plan.ts';
import { type Command, UsageError } from './command.ts';

const help = `Usage: conger up [options]        (or: npm start -- [options])

Brings a datacenter up, in the foreground; Ctrl-C stops it. The next start carries on with the same data.

  --kafka                    start a Kafka broker and keep the changes in it (default: in PostgreSQL)
  --kafka-brokers HOST:PORT  use these Kafka brokers, comma-separated
  --postgres URL[,URL...]    use this PostgreSQL (17 or newer, wal_level=logical)
  --instances N              instances of each of CNAPI, VMAPI, NAPI and FWAPI (default 2)
  --captures N               captures (default 1): the others take over where one dies or hangs
  --nodes N                  compute nodes (default 2): network namespaces, or simulated where these cannot be
  --nodes simulated:N        compute nodes, all of them simulated
  --home DIR                 data, logs and endpoints.json (default .conger)
  --port-base N              first of the ports (default ${defaultPortBase}; 0: any that are free)
  --sql                      trust clients with SQL and hooks that are code
  --no-install               install no Debian packages
  --help                     this text
`;

function wholeNumber(option: string, text: string, least: number, most: number): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= least && value <= most) return value;
  throw new UsageError(`${option} ${text}: a whole number from ${least} to ${most} is wanted`);
}

function parseNodes(text: string): Pick<DatacenterOptions, 'nodes' | 'simulated'> {
  const simulated = text.startsWith('simulated:');
  const count = simulated ? text.slice('simulated:'.length) : text;
  return { nodes: wholeNumber('--nodes', count, 0, 1_000), simulated };
}

function parseBrokers(text: string): string[] {
  const brokers = text.split(',').map((broker) => broker.trim());
  const wrong = brokers.find((broker) => !/^[^\s:]+:\d+$|^\[[\da-f:]+\]:\d+$/i.test(broker));
  if (wrong !== undefined) throw new UsageError(`--kafka-brokers ${wrong}: host:port is wanted`);
  return brokers;
}

function parsePostgres(text: string): string {
  try {
    hostsOf(text);
    return text;
  } catch {
    throw new UsageError('--postgres: a URL like postgresql://user:password@host:5432/database is wanted');
  }
}

/** @throws UsageError */
export function parseUp(args: string[]): DatacenterOptions {
  const { values } = parseArgs({
    args,
    options: {
      kafka: { type: 'boolean', default: false },
      'kafka-brokers': { type: 'string' },
      postgres: { type: 'string' },
      instances: { type: 'string', default: '2' },
      captures: { type: 'string', default: '1' },
      nodes: { type: 'string', default: '2' },
      home: { type: 'string', default: '.conger' },
      'port-base': { type: 'string', default: String(defaultPortBase) },
      sql: { type: 'boolean', default: false },
      'no-install': { type: 'boolean', default: false },
    },
  });
  const brokers = values['kafka-brokers'];
  if (values.kafka && brokers !== undefined) {
    throw new UsageError('--kafka starts a broker and --kafka-brokers uses others: give one of them');
  }
  if (values.home === '') throw new UsageError('--home: a directory is wanted');
  const portBase = wholeNumber('--port-base', values['port-base'], 0, 65_000);
  return {
    home: values.home,
    instances: wholeNumber('--instances', values.instances, 1, 50),
    captures: wholeNumber('--captures', values.captures, 1, mostCaptures),
    ...parseNodes(values.nodes),
    portBase: portBase === 0 ? 'free' : portBase,
    kafka: brokers === undefined ? values.kafka : parseBrokers(brokers),
    sql: values.sql,
    install: !values['no-install'],
    ...(values.postgres === undefined ? {} : { postgres: parsePostgres(values.postgres) }),
  };
}

function table(rows: readonly (readonly [string, string])[]): string {
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `  ${name.padEnd(width)}  ${value}`).join('\n');
}

function withoutPassword(url: string): string {
  const safe = new URL(url);
  if (safe.password !== '') safe.password = '***';
  return safe.href;
}

function welcome({ endpoints, home }: Datacenter): string {
  const { kvstore, cnapi, vmapi, napi, fwapi, adminui, kafka, postgres, nodes } = endpoints;
  const kinds = nodes.map(({ uuid, kind }) => `${uuid} (${kind})`);
  const rows: [string, string][] = [
    ['adminui', adminui.join(' ')],
    ['CNAPI', cnapi.join(' ')],
    ['VMAPI', vmapi.join(' ')],
    ['NAPI', napi.join(' ')],
    ['FWAPI', fwapi.join(' ')],
    ['kvstore', kvstore.join(' ')],
    ['PostgreSQL', hostsOf(postgres).map(withoutPassword).join(' ')],
    ['Kafka', kafka?.join(' ') ?? 'not used: the log is in PostgreSQL'],
    ...kinds.map((text, i): [string, string] => [i === 0 ? 'nodes' : '', text]),
    ['home', home.path],
  ];
  return `
${table(rows)}

Three things to try:
  open ${adminui[0]} in a browser, and watch what the last line does appear there
  curl -s ${cnapi[0]}/servers          # the compute nodes; ${vmapi[0]}/docs describes every call
  curl -s ${napi[0]}/fabrics/${randomUUID()}/vlans -H 'content-type: application/json' -d '{"name":"first","vlan_id":2}'

Ctrl-C stops everything.
`;
}

/**
 * Calls `gone` once the parent has ended. npm runs scripts in a shell, to which it passes signals on and which dies of
 * them without a word to this process; there is no event for that.
 */
function watchParent(gone: () => void): void {
  const parent = process.ppid;
  const timer = setInterval(() => {
    if (process.ppid === parent) return;
    clearInterval(timer);
    gone();
  }, 500);
  timer.unref();
}

/** Resolves on the first request to stop; npm repeats a terminal's Ctrl-C, so that more of them mean nothing. */
function untilAsked(stopping: AbortController): Promise<string> {
  return new Promise((resolve) => {
    const ask = (why: string) => {
      stopping.abort(new Error(`stopped by ${why}`));
      resolve(why);
    };
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => ask(signal));
    if (process.env.npm_lifecycle_event !== undefined) watchParent(() => ask('npm is gone'));
  });
}

async function run(args: string[]): Promise<number> {
  const options = parseUp(args);
  const say = (line: string) => process.stdout.write(`conger: ${line}\n`);
  const stopping = new AbortController();
  const asked = untilAsked(stopping);
  const since = performance.now();
  let datacenter: Datacenter;
  try {
    datacenter = await startDatacenter({ ...options, say, signal: stopping.signal });
  } catch (error) {
    if (!stopping.signal.aborted) throw error;
    say('stopped while starting');
    return 0;
  }
  process.stdout.write(welcome(datacenter));
  say(`ready after ${((performance.now() - since) / 1000).toFixed(1)} s`);
  const why = await asked;
  say(`stopping (${why})`);
  const stopSince = performance.now();
  await datacenter.stop();
  say(`stopped after ${((performance.now() - stopSince) / 1000).toFixed(1)} s`);
  return 0;
}

export const up: Command = { help, run };
