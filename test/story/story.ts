import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { desiredBucket } from '../../agents/contract/desired.ts';
import type { Change } from '../../changefeed/types.ts';
import { type Datacenter, startDatacenter } from '../../cli/datacenter.ts';
import type { DatacenterOptions } from '../../cli/options.ts';
import { createKv } from '../../kvstore/client.ts';
import { silentLogger } from '../../runtime/log.ts';
import { Random } from '../random.ts';
import { Clients } from './clients.ts';
import { type Fault, injectFaults } from './faults.ts';
import { expectedOf, readHistory, violations } from './history.ts';
import { Listener } from './listener.ts';
import { agentGet, agentUrls, type Machine, type NodeState, ping, settles } from './nodes.ts';

export interface StoryOptions {
  readonly seed: number;
  readonly kafka: boolean;
  /** A directory of the run's own; after a failure its logs and data stay for whoever looks into it. */
  readonly home: string;
  readonly say?: (line: string) => void;
}

export interface StoryReport {
  readonly faults: readonly Fault[];
  readonly requests: number;
  readonly retries: number;
  readonly changes: number;
  readonly reconnects: number;
}

interface JobValue {
  readonly uuid: string;
  readonly name: string;
  readonly execution: string;
  readonly chain_results: readonly { readonly name: string }[];
}

/**
 * The story that must be true: a fabric network, two machines on two nodes, a firewall, a rule and its tags, told
 * through Triton's clients, while one process of every kind is killed. What must hold at the end is checked against
 * the whole log and the kernel.
 * @throws Error saying what did not hold
 */
export async function runStory({ seed, kafka, home, say = () => {} }: StoryOptions): Promise<StoryReport> {
  const random = new Random(seed);
  const options: DatacenterOptions = { home, kafka, nodes: 2, portBase: 'free', say };
  const datacenter = await startDatacenter(options);
  const ended = new AbortController();
  const listeners: Listener[] = [];
  try {
    if (datacenter.endpoints.nodes.some((node) => node.kind !== 'netns'))
      throw new Error('the story needs netns nodes');
    const { vmapi, fwapi } = datacenter.endpoints;
    for (let i = 0; i < 2; i++) {
      listeners.push(
        new Listener(vmapi, 'vm', random.fork(10 + i)),
        new Listener(fwapi, 'rule', random.fork(20 + i)),
      );
    }
    await Promise.all(listeners.map((listener) => listener.begun()));
    const clients = new Clients(datacenter.endpoints, random.fork(1));
    const faults = injectFaults(datacenter, random.fork(2), ended.signal);
    faults.catch(() => {});
    await tell(datacenter, clients, say);
    const injected = await faults;
    for (const { name, at } of injected) say(`killed ${name} at ${at} ms`);
    const changes = await checkEverything(datacenter, listeners);
    await Promise.all(listeners.map((listener) => listener.stop()));
    await datacenter.destroy();
    return {
      faults: injected,
      ...clients.counts,
      changes,
      reconnects: listeners.reduce((sum, listener) => sum + listener.reconnects, 0),
    };
  } finally {
    ended.abort();
    await Promise.all(listeners.map((listener) => listener.stop()));
    await datacenter.stop();
  }
}

/** The story itself; each request is repeated until it is answered, and each state is waited for. */
async function tell(datacenter: Datacenter, clients: Clients, say: (line: string) => void): Promise<void> {
  const { prefix } = datacenter.identities;
  const owner = randomUUID();
  const request = () => ({ headers: { 'x-request-id': randomUUID() } });
  const done = async ({ job_uuid }: { job_uuid: string }) => {
    const job = await clients.call<JobValue>('vmapi', 'get', `/jobs/${job_uuid}/wait`);
    if (job.execution !== 'succeeded')
      throw new Error(`job ${job.name} ${job.execution}: ${JSON.stringify(job)}`);
  };
  const reaches = (from: Machine, to: Machine, wanted: boolean) => async () =>
    (await ping(prefix, from, to)) === wanted;

  await clients.call('napi', 'createFabricVLAN', owner, { name: 'story', vlan_id: 4 }, request());
  const range = { subnet: '10.7.0.0/24', provision_start_ip: '10.7.0.10', provision_end_ip: '10.7.0.200' };
  const network = await clients.call<{ uuid: string }>(
    'napi',
    'createFabricNetwork',
    owner,
    4,
    { name: 'story', ...range },
    request(),
  );
  const uuids = await Promise.all(
    datacenter.endpoints.nodes.map(async ({ uuid: server_uuid }) => {
      const wish = {
        owner_uuid: owner,
        brand: 'joyent-minimal',
        ram: 64,
        image_uuid: randomUUID(),
        server_uuid,
      };
      const payload = { ...wish, networks: [{ uuid: network.uuid }] };
      const started = await clients.call<{ vm_uuid: string; job_uuid: string }>(
        'vmapi',
        'createVm',
        { payload },
        request(),
      );
      await done(started);
      return started.vm_uuid;
    }),
  );
  const machines = await Promise.all(
    uuids.map(async (uuid) => {
      const vm = await clients.call<{ nics: { ip: string }[] }>('vmapi', 'getVm', { uuid }, {});
      return { uuid, ip: vm.nics[0]!.ip };
    }),
  );
  const [web, db] = machines as [Machine, Machine];
  await settles(
    'the machines reach each other',
    async () => (await ping(prefix, web, db)) && (await ping(prefix, db, web)),
  );
  say('the machines reach each other through VXLAN');

  for (const { uuid } of machines) {
    await done(
      await clients.call('vmapi', 'updateVm', { uuid, payload: { firewall_enabled: true } }, request()),
    );
  }
  await settles(
    'the firewall stops the ping',
    async () => !(await ping(prefix, web, db)) && !(await ping(prefix, db, web)),
  );
  say('the firewall stops the ping');

  const text = 'FROM tag role = web TO tag role = db ALLOW icmp TYPE 8 CODE 0';
  await clients.call('fwapi', 'createRule', { rule: text, owner_uuid: owner, enabled: true }, request());
  for (const [{ uuid }, role] of [
    [web, 'web'],
    [db, 'db'],
  ] as const) {
    await done(await clients.call('vmapi', 'addMetadata', 'tags', { uuid, metadata: { role } }, request()));
  }
  await settles('the rule lets web reach db', reaches(web, db, true));
  await settles('the rule does not let db reach web', reaches(db, web, false));
  say('the rule lets the ping pass, one way only');

  await done(await clients.call('vmapi', 'deleteMetadata', 'tags', { uuid: web.uuid }, 'role', request()));
  await settles('without the tag the ping stops', reaches(web, db, false));
  say('without the tag it stops');
}

/** What must hold once everything has come to rest. Answers how many changes the listeners were told. */
async function checkEverything(datacenter: Datacenter, listeners: readonly Listener[]): Promise<number> {
  await nodesAreRight(datacenter);
  // The capture that is back may yet have to append what the store shows already.
  let history: Change[][] = [];
  await settles('the log holds the end of every job', async () => {
    history = await readHistory(datacenter.endpoints);
    return jobsOf(history).every(({ last }) => isOver(last));
  });
  jobsFinishedOnce(history);
  let changes = 0;
  for (const [i, listener] of listeners.entries()) {
    const expected = expectedOf(history, i % 2 === 0 ? 'vmapi_vms' : 'fwapi_rules');
    const count = expected.flat().length;
    const start = Date.now();
    while (listener.seen.length < count && Date.now() - start < 90_000) await sleep(50);
    const problems = violations(expected, listener.seen);
    if (problems.length > 0) throw new Error(`listener ${i}: ${problems.join('; ')}`);
    changes += count;
  }
  return changes;
}

/** Every node's agent has exactly the objects whose span names the node, and its kernel is what they ask for. */
async function nodesAreRight(datacenter: Datacenter): Promise<void> {
  const kv = createKv({ servers: datacenter.endpoints.kvstore, log: silentLogger() });
  try {
    let last = '';
    await settles('every node’s kernel is as desired', async () => {
      const urls = await agentUrls(datacenter);
      const all = await Promise.all(
        datacenter.endpoints.nodes.map(async ({ uuid }, i) => {
          const wanted = await kv.find(desiredBucket.name, `(span=${uuid})`, { noLimit: true });
          const state = await agentGet<NodeState>(urls[i]!, 'state');
          const verified = await agentGet<{ equal: boolean; differences: string[] }>(urls[i]!, 'verify');
          const keys = wanted.objects.map((object) => object.key).sort();
          const same = JSON.stringify(keys) === JSON.stringify([...state.desired].sort());
          if (same && verified.equal && state.failed.length === 0) return true;
          last = JSON.stringify({ uuid, keys, ...state, timings: undefined, ...verified });
          return false;
        }),
      );
      return all.every(Boolean);
    }).catch((error: unknown) => {
      throw new Error(`${(error as Error).message}: ${last}`);
    });
  } finally {
    await kv.close();
  }
}

/** Each job as the log has it last, and how often it ended. */
function jobsOf(history: readonly Change[][]): { readonly last: JobValue; readonly ends: number }[] {
  const jobs = new Map<string, { last: JobValue; ends: number }>();
  const changes = history.flat().filter((change) => change.bucket === 'vmapi_jobs') as Change<JobValue>[];
  for (const { key, value, previous } of changes) {
    if (value === null) continue;
    const ended = isOver(value) && (previous === null || !isOver(previous));
    jobs.set(key, { last: value, ends: (jobs.get(key)?.ends ?? 0) + (ended ? 1 : 0) });
  }
  return [...jobs.values()];
}

/** Every job succeeded, ended once, and did each of its steps once. */
function jobsFinishedOnce(history: readonly Change[][]): void {
  const jobs = jobsOf(history);
  for (const { last, ends } of jobs) {
    const steps = last.chain_results.map((step) => step.name);
    const once = ends === 1 && new Set(steps).size === steps.length;
    if (last.execution !== 'succeeded' || !once)
      throw new Error(`job ${last.uuid} did not succeed once: ${JSON.stringify({ ...last, ends })}`);
  }
  if (jobs.length === 0) throw new Error('the log holds no jobs');
}

function isOver(job: JobValue): boolean {
  return job.execution === 'succeeded' || job.execution === 'failed';
}
