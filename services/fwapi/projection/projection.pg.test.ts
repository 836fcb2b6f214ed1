import { randomUUID } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { type Desired, desiredBucket, desiredSchema } from '../../../agents/contract/desired.ts';
import type { Instance } from '../../../test/fixtures/stack.ts';
import { type VmRecord, vmsBucket } from '../../common/records.ts';
import { type RuleRecord, ruleOfRecord, rulesBucket } from '../models/rule.ts';
import { newVm, type Obj, startFwapi, type TestFwapi } from '../testing/fwapi.ts';
import { computeFirewall } from './compute.ts';

// Everything here waits for PostgreSQL's disk.
vi.setConfig({ testTimeout: 180_000, hookTimeout: 240_000 });

let fwapi: TestFwapi;
beforeAll(async () => {
  fwapi = await startFwapi(3);
});
afterAll(() => fwapi?.close());

const everything = { noLimit: true } as const;
const rule = (text: string, owner: string | undefined, more: Obj = {}) =>
  fwapi.client().call<{ uuid: string }>('createRule', {
    rule: text,
    enabled: true,
    ...(owner === undefined ? { global: true } : { owner_uuid: owner }),
    ...more,
  });

/** What the nodes are told of an owner's firewall, by key. */
async function told(owner: string): Promise<Map<string, Desired>> {
  const found = await fwapi.stack.kv.find<unknown>(desiredBucket.name, `(owner_uuid=${owner})`, everything);
  return new Map(found.objects.map(({ key, value }) => [key, desiredSchema.parse(value)]));
}

/** What they are to be told: computed from what there is, all at once. */
async function wanted(owner: string): Promise<Map<string, Desired>> {
  const { kv } = fwapi.stack;
  const vms = await kv.find<VmRecord>(vmsBucket.name, `(owner_uuid=${owner})`, everything);
  const rules = await kv.find<RuleRecord>(
    rulesBucket.name,
    `(|(owner=${owner})(&(uuid=*)(!(owner=*))))`,
    everything,
  );
  const objects = computeFirewall(
    owner,
    vms.objects.map(({ value }) => value),
    rules.objects.map(({ value }) => ruleOfRecord(value)),
  );
  return new Map(objects.map((object) => [object.key, object]));
}

/** Resolves once the owner's nodes are told what they are to be told, looking after each change of that. */
async function settled(owner: string, watcher: Instance): Promise<Map<string, Desired>> {
  for (;;) {
    let changed = () => {};
    const change = new Promise<void>((resolve) => {
      changed = resolve;
    });
    const unsubscribe = watcher.context.broadcast.subscribe({
      buckets: [desiredBucket.name],
      onChange: ({ partitionKey }) => {
        if (partitionKey === owner) changed();
      },
    });
    const [now, then] = await Promise.all([told(owner), wanted(owner)]);
    const equal = isDeepStrictEqual(now, then);
    if (!equal) await change;
    unsubscribe();
    if (equal) return now;
  }
}

function watcher(): Instance {
  return fwapi.instances[0] as Instance;
}

test('machines and a rule between them become what their nodes are told', async () => {
  const owner = randomUUID();
  const web = await fwapi.putVm(newVm(owner, { tag_map: { role: 'web' } }));
  const db = await fwapi.putVm(newVm(owner, { tag_map: { role: 'db' } }));
  await fwapi.putVm(newVm(owner, { firewall_enabled: false, tag_map: { role: 'none' } }));
  const { uuid } = await rule('FROM tag role = web TO tag role = db ALLOW icmp TYPE 8 CODE 0', owner);
  const ruleKey = `firewall-rule/${uuid}/${owner}`;
  const objects = await settled(owner, watcher());
  expect([...objects.keys()].sort()).toEqual(
    [`firewall-vm/${web.uuid}`, `firewall-vm/${db.uuid}`, ruleKey].sort(),
  );
  expect(objects.get(`firewall-vm/${web.uuid}`)).toMatchObject({
    span: [web.server_uuid],
    body: { uuid: web.uuid, nics: [{ mac: web.nics[0]?.mac, ips: [web.nics[0]?.ip], vnet_id: 77 }] },
  });
  expect(objects.get(ruleKey)).toMatchObject({
    span: [web.server_uuid, db.server_uuid].sort(),
    body: {
      action: 'allow',
      protocol: 'icmp',
      types: [{ type: 8, code: 0 }],
      in: { vms: [db.uuid], peers: [web.nics[0]?.ip] },
      out: { vms: [web.uuid], peers: [db.nics[0]?.ip] },
    },
  });

  await fwapi.putVm({ ...web, tag_map: {} });
  expect((await settled(owner, watcher())).has(ruleKey)).toBe(false);
  await fwapi.putVm({ ...web, server_uuid: db.server_uuid });
  expect((await settled(owner, watcher())).get(ruleKey)?.span).toEqual([db.server_uuid]);
  await fwapi.client().call('updateRule', uuid, { enabled: false });
  expect((await settled(owner, watcher())).has(ruleKey)).toBe(false);
  await fwapi.client().call('updateRule', uuid, { enabled: true });
  expect((await settled(owner, watcher())).has(ruleKey)).toBe(true);
  await fwapi.client().call('deleteRule', uuid, {});
  expect((await settled(owner, watcher())).has(ruleKey)).toBe(false);
  await fwapi.putVm({ ...db, state: 'destroyed' });
  expect([...(await settled(owner, watcher())).keys()]).toEqual([`firewall-vm/${web.uuid}`]);
});

test('a machine that changes hands leaves its old owner’s rules', async () => {
  const [before, after] = [randomUUID(), randomUUID()];
  const vm = await fwapi.putVm(newVm(before));
  await rule('FROM any TO all vms ALLOW tcp PORT 22', before);
  expect(await settled(before, watcher())).toHaveProperty('size', 2);
  await fwapi.putVm({ ...vm, owner_uuid: after });
  expect((await settled(after, watcher())).size).toBe(1);
  expect((await settled(before, watcher())).size).toBe(0);
});

test('a global rule reaches every owner, and leaves every owner', async () => {
  const owners = Array.from({ length: 12 }, () => randomUUID());
  for (const owner of owners) await fwapi.putVm(newVm(owner));
  const { uuid } = await rule('FROM any TO all vms ALLOW tcp PORT 22', undefined);
  for (const owner of owners) {
    const objects = await settled(owner, watcher());
    expect(objects.get(`firewall-rule/${uuid}/${owner}`)).toMatchObject({ owner_uuid: owner });
  }
  await fwapi.client().call('deleteRule', uuid, {});
  for (const owner of owners) expect((await settled(owner, watcher())).size).toBe(1);
});

test('while instances are cut off and one is killed, every owner’s nodes end up told what they are to be', async () => {
  let seed = 11;
  const random = (n: number) => {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
    return seed % n;
  };
  const owners = Array.from({ length: 6 }, () => randomUUID());
  const vms = owners.flatMap((owner) => [newVm(owner), newVm(owner), newVm(owner)]);
  const roles = ['web', 'db', 'cache'];
  for (const owner of owners) {
    await rule('FROM tag role = web TO tag role = db ALLOW tcp PORT 5432', owner);
    await rule('FROM tag role = db TO any BLOCK udp PORT 53', owner);
  }
  const global = await rule('FROM any TO tag role = cache ALLOW tcp PORT 22', undefined);
  const [kept, cut, killed] = fwapi.instances as [Instance, Instance, Instance];
  for (let round = 0; round < 30; round++) {
    await Promise.all(
      [0, 1, 2].map(async () => {
        const vm = vms[random(vms.length)] as VmRecord;
        await fwapi.putVm({
          ...vm,
          firewall_enabled: random(4) > 0,
          state: random(5) === 0 ? 'destroyed' : 'running',
          tag_map: { role: roles[random(roles.length)] as string },
        });
      }),
    );
    if (round % 7 === 3) cut.cut();
    if (round === 15) await killed.kill();
    if (round === 20) {
      await fetch(`${kept.url}/rules/${global.uuid}`, {
        method: 'PUT',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ rule: 'FROM any TO tag role = web ALLOW tcp PORT 22' }),
      });
    }
  }
  for (const owner of owners) {
    expect(await settled(owner, kept)).toEqual(await wanted(owner));
  }
});
