import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { desiredBucket } from '../../agents/contract/desired.ts';
import { isCongerError } from '../../runtime/errors.ts';
import type { Instance } from '../../test/fixtures/stack.ts';
import { statusBucket } from './models/buckets.ts';
import type { StatusRecord } from './models/status.ts';
import { startCnapi, TestAgent, type TestCnapi } from './testing/cnapi.ts';

// Everything here waits for PostgreSQL's disk.
vi.setConfig({ testTimeout: 180_000, hookTimeout: 240_000 });

let cnapi: TestCnapi;
beforeAll(async () => {
  cnapi = await startCnapi(2, 600);
});
afterAll(() => cnapi?.close());

const instance = (n: number) => cnapi.instances[n] as Instance;

/** A desired object of the smallest kind; `n` tells its versions apart. */
function overlay(network: string, owner: string, span: readonly string[], n: number) {
  return {
    v: 1,
    kind: 'overlay',
    key: `overlay/${network}`,
    owner_uuid: owner,
    span,
    body: { network_uuid: network, vnet_id: n, vlan_id: 2, mtu: 1400, subnet: '10.0.0.0/24', mappings: [] },
  };
}
const put = (object: ReturnType<typeof overlay>) =>
  cnapi.stack.kv.put(desiredBucket.name, object.key, object);

/** Waits until a server's status is what is wanted; answers it. */
function status(
  server: string,
  holds: (status: StatusRecord) => boolean,
  at = instance(0),
): Promise<StatusRecord> {
  const { broadcast, kv } = at.context;
  return broadcast.waitFor({ bucket: statusBucket.name, key: server, timeoutMs: 150_000 }, async () => {
    const found = await kv.tryGet<StatusRecord>(statusBucket.name, server);
    return found !== undefined && holds(found.value) ? found.value : undefined;
  });
}

describe('an agent', () => {
  test('is told all that is in its span, then what enters and leaves it, on any instance', async () => {
    const [server, other, owner, network] = [randomUUID(), randomUUID(), randomUUID(), randomUUID()];
    const objects = [
      overlay(network, owner, [server], 1),
      overlay(network, owner, [server, other], 2),
      overlay(network, owner, [other], 3),
      overlay(network, owner, [other, server], 4),
    ] as const;
    await put(objects[0]);
    await put(overlay(randomUUID(), owner, [other], 9));
    const agents = await Promise.all([0, 1].map((n) => TestAgent.connect(instance(n), server)));
    for (const agent of agents)
      expect(agent.messages).toEqual([
        { type: 'snapshot', v: 1, position: expect.any(String), objects: [objects[0]], tasks: [] },
      ]);
    for (const object of objects.slice(1)) await put(object);
    await cnapi.stack.kv.del(desiredBucket.name, objects[0].key);
    for (const agent of agents) {
      await agent.until(() => agent.messages.length === 5);
      expect(agent.messages.slice(1)).toMatchObject([
        { type: 'put', object: objects[1] },
        { type: 'delete', key: objects[0].key },
        { type: 'put', object: objects[3] },
        { type: 'delete', key: objects[0].key },
      ]);
      const positions = agent.messages.slice(1).map(({ position }) => position);
      expect([...positions].sort()).toEqual(positions);
      await agent.close();
    }
  });

  test('is told objects as they are, also those that this instance cannot read', async () => {
    const [server, owner] = [randomUUID(), randomUUID()];
    const later = { v: 2, kind: 'gateway', key: 'gateway/1', owner_uuid: owner, span: [server], body: 7 };
    const broken = { ...overlay(randomUUID(), owner, [server], 1), body: { vnet_id: 'many' } };
    const write = (key: string, value: unknown) => cnapi.stack.kv.put(desiredBucket.name, key, value);
    await write(later.key, later);
    await write(broken.key, broken);
    const agent = await TestAgent.connect(instance(0), server);
    expect([...agent.objects.values()]).toEqual(expect.arrayContaining([later, broken]));
    // What is nobody's does not hold up what follows.
    await write('odd/1', { key: 'odd/1', owner_uuid: owner, span: 'none' });
    await write('odd/1', { key: 'odd/1', owner_uuid: owner });
    await write(later.key, { ...later, v: 3 });
    await cnapi.stack.kv.del(desiredBucket.name, broken.key);
    await agent.until(() => agent.messages.length === 3);
    expect(agent.messages.slice(1)).toMatchObject([
      { type: 'put', object: { ...later, v: 3 } },
      { type: 'delete', key: broken.key },
    ]);
    await agent.close();
  });

  test('misses nothing and sees nothing twice that was written while it was told', async () => {
    let seed = 5;
    const random = (n: number) => {
      seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
      return seed % n;
    };
    const servers = [randomUUID(), randomUUID()] as const;
    const owners = Array.from({ length: 4 }, () => randomUUID());
    const networks: string[] = Array.from({ length: 12 }, () => randomUUID());
    let writing = true;
    let written = 0;
    const write = async (own: readonly string[]) => {
      while (writing) {
        const network = own[random(own.length)] as string;
        const owner = owners[networks.indexOf(network) % owners.length] as string;
        const span = servers.filter(() => random(2) === 0);
        if (random(6) > 0) await put(overlay(network, owner, span, ++written));
        else await cnapi.stack.kv.del(desiredBucket.name, `overlay/${network}`).catch(unlessGone);
      }
    };
    // Two writers, each with networks of its own: what is last of an object is clear.
    const writers = [networks.slice(0, 6), networks.slice(6)].map(write);
    const agents: [string, TestAgent][] = [];
    for (let i = 0; i < 8; i++) {
      const server = servers[i % 2] as string;
      agents.push([server, await TestAgent.connect(instance(random(2)), server)]);
      for (let wait = random(20); wait > 0; wait--)
        await put(overlay(randomUUID(), owners[0] as string, [], 0));
    }
    writing = false;
    await Promise.all(writers);
    // In each owner's partition a last object says that all before it was told.
    const marks = owners.map((owner) => overlay(randomUUID(), owner, servers, ++written));
    for (const mark of marks) await put(mark);
    for (const [server, agent] of agents) {
      await agent.until(() => marks.every(({ key }) => agent.objects.has(key)));
      const found = await cnapi.stack.kv.find<{ key: string }>(desiredBucket.name, `(span=${server})`, {
        noLimit: true,
      });
      const now = new Map(found.objects.map(({ key, value }) => [key, value]));
      expect(agent.objects).toEqual(now);
      // An object's versions are told in order, each once: a put of one that is there already would be a repeat.
      const seen = new Map<string, number>();
      for (const message of agent.messages) {
        const told =
          message.type === 'put' ? [message.object] : message.type === 'snapshot' ? message.objects : [];
        for (const { key, body } of told as ReturnType<typeof overlay>[]) {
          expect(body.vnet_id).toBeGreaterThan(seen.get(key) ?? 0);
          seen.set(key, body.vnet_id);
        }
      }
      await agent.close();
    }
  });

  test('is told each task once, and those that are open when it comes back', async () => {
    const server = randomUUID();
    await cnapi.register(server);
    const agent = await TestAgent.connect(instance(0), server);
    await status(server, (now) => now.status === 'running');
    const make = async () => (await cnapi.request('POST', `/servers/${server}/nop`, {})).body.id as string;
    const ids = await Promise.all(Array.from({ length: 10 }, make));
    const told = () =>
      agent.messages.flatMap((message) => (message.type === 'task' ? [message.task.id] : []));
    await agent.until(() => told().length >= ids.length);
    await cnapi.request('POST', `/tasks/${ids[0]}/result`, { status: 'complete' });
    const last = await make();
    await agent.until(() => told().includes(last));
    expect(told()).toHaveLength(11);
    expect(new Set(told())).toEqual(new Set([...ids, last]));
    await agent.close();
    const back = await TestAgent.connect(instance(1), server);
    await status(server, (now) => now.status === 'running' && now.instance === instance(1).context.member);
    const [snapshot] = back.messages;
    const open =
      snapshot?.type === 'snapshot' ? (snapshot.tasks as { id: string }[]).map(({ id }) => id) : [];
    expect(new Set(open)).toEqual(new Set([...ids.slice(1), last]));
    const next = await make();
    await back.until(() => back.messages.length > 1);
    expect(back.messages[1]).toMatchObject({ type: 'task', task: { id: next, server_uuid: server } });
    await back.close();
  });

  test('that says what CNAPI does not know is cut off, and nobody else', async () => {
    const servers = [randomUUID(), randomUUID()] as const;
    const [bad, good] = await Promise.all(servers.map((server) => TestAgent.connect(instance(0), server)));
    const closed = bad?.closed();
    bad?.send('{"type":');
    expect(await closed).toBe(1008);
    const object = overlay(randomUUID(), randomUUID(), [servers[1]], 1);
    await put(object);
    await good?.until(() => good.objects.has(object.key));
    await good?.close();
  });
});

describe('a server', () => {
  test('runs while its agent is connected, and is unknown when it has been away for the silence', async () => {
    const server = randomUUID();
    const agent = await TestAgent.connect(instance(0), server);
    const running = await status(server, (now) => now.status === 'running');
    await agent.close();
    const again = await TestAgent.connect(instance(1), server);
    await status(server, (now) => now.status === 'running' && now.instance !== running.instance);
    await again.close();
    await status(server, (now) => now.status === 'unknown');
  });

  test('whose instance dies is unknown once the silence is over, unless another hears it', async () => {
    const dying = await cnapi.start();
    const [silent, moving, beating] = [randomUUID(), randomUUID(), randomUUID()] as const;
    await cnapi.register(beating);
    const agents = await Promise.all([silent, moving].map((server) => TestAgent.connect(dying, server)));
    await cnapi.request('POST', `/servers/${beating}/events/heartbeat`, {}, dying);
    for (const server of [silent, moving, beating])
      await status(server, (now) => now.instance === dying.context.member);
    await dying.kill();
    expect(agents).toHaveLength(2);
    const moved = await TestAgent.connect(instance(1), moving);
    await cnapi.request('POST', `/servers/${beating}/events/heartbeat`, {}, instance(0));
    await status(moving, (now) => now.status === 'running' && now.instance !== dying.context.member);
    await status(silent, (now) => now.status === 'unknown');
    await moved.close();
    await status(beating, (now) => now.status === 'unknown');
  });
});

function unlessGone(error: unknown): void {
  if (!isCongerError(error, 'ObjectNotFoundError')) throw error;
}
