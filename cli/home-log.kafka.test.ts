import { randomUUID } from 'node:crypto';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { desiredBucket } from '../agents/contract/desired.ts';
import { createKv } from '../kvstore/client.ts';
import { silentLogger } from '../runtime/log.ts';
import { kafkaAvailable } from '../test/fixtures/kafka.ts';
import { agentGet, agentUrls, settles } from '../test/story/nodes.ts';
import { type Datacenter, startDatacenter } from './datacenter.ts';

interface NodeState {
  readonly desired: readonly string[];
}

describe.skipIf(!(await kafkaAvailable()))('a home whose log is exchanged', () => {
  let path: string;
  let running: Datacenter | undefined;
  let said: string[];

  beforeAll(async () => {
    path = await mkdtemp(join(tmpdir(), 'conger-exchange-'));
    await chmod(path, 0o755);
  });

  afterAll(async () => {
    await running?.destroy();
    await rm(path, { recursive: true, force: true });
  });

  async function start(kafka: boolean): Promise<Datacenter> {
    said = [];
    const say = (line: string) => said.push(line);
    running = await startDatacenter({
      home: join(path, 'home'),
      portBase: 'free',
      instances: 1,
      nodes: 2,
      simulated: true,
      kafka,
      say,
    });
    return running;
  }

  async function call<T>(method: string, url: string, body?: unknown): Promise<T> {
    const response = await fetch(url, {
      method,
      headers: { 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${url}: ${response.status} ${text}`);
    return (text === '' ? undefined : JSON.parse(text)) as T;
  }

  const ended = ({ endpoints }: Datacenter, { job_uuid }: { job_uuid: string }) =>
    call<{ execution: string }>('GET', `${endpoints.vmapi[0]}/jobs/${job_uuid}/wait`);

  /** Waits until the owner's desired objects, and what the nodes have been told, are these and no others. */
  async function desired(datacenter: Datacenter, owner: string, keys: readonly string[]): Promise<void> {
    const kv = createKv({ servers: datacenter.endpoints.kvstore, log: silentLogger() });
    const wanted = [...keys].sort().join();
    try {
      await settles(`${wanted} is desired`, async () => {
        const found = await kv.find(desiredBucket.name, `(owner_uuid=${owner})`, { noLimit: true });
        const states = await Promise.all(
          (await agentUrls(datacenter)).map((url) => agentGet<NodeState>(url, 'state')),
        );
        const told = new Set(states.flatMap((state) => state.desired));
        return (
          found.objects
            .map(({ key }) => key)
            .sort()
            .join() === wanted && [...told].sort().join() === wanted
        );
      });
    } finally {
      await kv.close();
    }
  }

  /** The first line of a feed of VMs. */
  async function feed(
    datacenter: Datacenter,
    since = '',
  ): Promise<{ type?: string; code?: string; cursor?: string }> {
    const url = `${datacenter.endpoints.vmapi[0]}/feed?resource=vm${since === '' ? '' : `&since=${since}`}`;
    const leave = new AbortController();
    const response = await fetch(url, { signal: leave.signal });
    let text = '';
    for await (const chunk of response.body ?? []) {
      text += Buffer.from(chunk).toString();
      if (text.includes('\n') || !response.ok) break;
    }
    leave.abort();
    return JSON.parse(text.split('\n')[0] ?? '') as { type?: string; code?: string; cursor?: string };
  }

  test('loses nothing that consumers had not applied, there and back', { timeout: 600_000 }, async () => {
    let datacenter = await start(false);
    const owner = randomUUID();
    const { napi, vmapi, fwapi } = datacenter.endpoints;
    await call('POST', `${napi[0]}/fabrics/${owner}/vlans`, { name: 'a vlan', vlan_id: 4 });
    const network = await call<{ uuid: string }>('POST', `${napi[0]}/fabrics/${owner}/vlans/4/networks`, {
      name: 'a net',
      subnet: '10.7.0.0/24',
      provision_start_ip: '10.7.0.10',
      provision_end_ip: '10.7.0.200',
    });
    const created = await call<{ vm_uuid: string; job_uuid: string }>('POST', `${vmapi[0]}/vms`, {
      owner_uuid: owner,
      brand: 'joyent-minimal',
      ram: 64,
      image_uuid: randomUUID(),
      server_uuid: datacenter.endpoints.nodes[0]?.uuid,
      firewall_enabled: true,
      networks: [{ uuid: network.uuid }],
    });
    expect(await ended(datacenter, created)).toMatchObject({ execution: 'succeeded' });
    const vm = created.vm_uuid;
    const rule = await call<{ rule?: { uuid: string }; uuid?: string }>('POST', `${fwapi[0]}/rules`, {
      rule: 'FROM any TO tag role = web ALLOW tcp PORT 80',
      owner_uuid: owner,
      enabled: true,
    });
    const always = [`vm/${vm}`, `firewall-vm/${vm}`, `overlay/${network.uuid}`];
    const ruleKey = `firewall-rule/${rule.rule?.uuid ?? rule.uuid}/${owner}`;
    await desired(datacenter, owner, always);
    const old = (await feed(datacenter)).cursor ?? '';
    expect(old).not.toBe('');

    const tag = async (tags: Record<string, string>) => {
      const { vmapi } = datacenter.endpoints;
      const job = await call<{ job_uuid: string }>('PUT', `${vmapi[0]}/vms/${vm}/tags`, tags);
      expect(await ended(datacenter, job)).toMatchObject({ execution: 'succeeded' });
    };
    /** Changes the machine's tags behind the projection's back, and ends everything. */
    const tagAndStop = async (tags: Record<string, string>) => {
      datacenter.kill('fwapi0', 'SIGSTOP');
      await tag(tags);
      const stopped = datacenter.stop();
      datacenter.kill('fwapi0', 'SIGKILL');
      await stopped;
    };

    await tagAndStop({ role: 'web' });
    datacenter = await start(true);
    expect(said).toContainEqual(expect.stringMatching(/^the log of changes is in the home's own Kafka/));
    await desired(datacenter, owner, [...always, ruleKey]);
    expect(await feed(datacenter, old)).toMatchObject({ code: 'PositionGone' });
    await tag({ role: 'db' });
    await desired(datacenter, owner, always);
    const inKafka = (await feed(datacenter)).cursor ?? '';
    expect(await feed(datacenter, inKafka)).toMatchObject({ type: 'bookmark' });

    await tagAndStop({ role: 'web' });
    datacenter = await start(false);
    expect(said).toContainEqual(expect.stringMatching(/^the log of changes is in PostgreSQL/));
    await desired(datacenter, owner, [...always, ruleKey]);
    for (const cursor of [old, inKafka])
      expect(await feed(datacenter, cursor)).toMatchObject({ code: 'PositionGone' });
    await tag({ role: 'db' });
    await desired(datacenter, owner, always);

    // The same log again: nothing is forgotten, and cursors hold.
    const kept = (await feed(datacenter)).cursor ?? '';
    await datacenter.stop();
    datacenter = await start(false);
    expect(said.filter((line) => line.startsWith('the log of changes'))).toEqual([]);
    expect(await feed(datacenter, kept)).not.toHaveProperty('code');
  });
});
