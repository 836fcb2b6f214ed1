import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { type Desired, desiredBucket } from '../../../agents/contract/desired.ts';
import { query, untilAppended } from '../../../changefeed/capture/wal.testing.ts';
import { partitionOf } from '../../../changefeed/change.ts';
import { readCheckpoint } from '../../../changefeed/checkpoint.ts';
import type { BatchOp, Kv } from '../../../kvstore/types.ts';
import { type Instance, type Stack, startStack } from '../../../test/fixtures/stack.ts';
import { type VmRecord, vmsBucket } from '../../common/records.ts';
import { parseRule, recordOfRule, rulesBucket } from '../models/rule.ts';
import { setupFwapi } from '../setup.ts';
import { newVm } from '../testing/fwapi.ts';

// Everything here waits for PostgreSQL's disk.
vi.setConfig({ testTimeout: 180_000, hookTimeout: 240_000 });

let stack: Stack;
let kv: Kv;
beforeAll(async () => {
  stack = await startStack();
  kv = stack.kv;
  for (const bucket of [vmsBucket, rulesBucket, desiredBucket])
    await kv.ensureBucket(bucket.name, bucket.config);
});
afterAll(() => stack?.close());

const put = (bucket: string, key: string, value: unknown): BatchOp => ({
  operation: 'put',
  bucket,
  key,
  value,
});
const putVm = (vm: VmRecord) => put(vmsBucket.name, vm.uuid, vm);

async function keysOf(owner: string): Promise<string[]> {
  const found = await kv.find<Desired>(desiredBucket.name, `(owner_uuid=${owner})`, { noLimit: true });
  return found.objects.map(({ key }) => key).sort();
}

/** Resolves once exactly these are the owner's desired objects, looking after each change of the owner's. */
async function until({ context }: Instance, owner: string, keys: readonly string[]): Promise<void> {
  for (;;) {
    let changed = () => {};
    const change = new Promise<void>((resolve) => {
      changed = resolve;
    });
    const unsubscribe = context.broadcast.subscribe({
      onChange: ({ partitionKey }) => partitionKey === owner && changed(),
    });
    const now = await keysOf(owner);
    const right = now.join() === [...keys].sort().join();
    if (!right) await change;
    unsubscribe();
    if (right) return;
  }
}

test('a consumer that begins on a log without history derives every owner from the state, once', async () => {
  const owners = Array.from({ length: 6 }, () => randomUUID());
  const crowd = randomUUID();
  const gone = randomUUID();
  const vms = owners.map((owner) => newVm(owner));
  const leftover = `firewall-vm/${randomUUID()}`;
  const rules = owners.map((owner) =>
    recordOfRule(
      parseRule({ rule: 'FROM any TO all vms ALLOW tcp PORT 22', owner_uuid: owner, enabled: true }),
      {},
    ),
  );
  const ops = [
    ...vms.map(putVm),
    ...rules.map((rule) => put(rulesBucket.name, rule.uuid, rule)),
    // More than a page of one owner: those behind it are found all the same.
    ...Array.from({ length: 1_100 }, () => putVm(newVm(crowd, { firewall_enabled: false }))),
    put(desiredBucket.name, leftover, {
      v: 1,
      kind: 'firewall-vm',
      key: leftover,
      owner_uuid: gone,
      span: [],
      body: { uuid: randomUUID(), nics: [] },
    }),
  ];
  await kv.batch(ops);
  await untilAppended(stack.postgres, ops.length);
  await query(stack.postgres, 'DELETE FROM conger_log');

  const first = await stack.start('fwapi', setupFwapi);
  const wanted = owners.map((owner, i) => [
    `firewall-vm/${vms[i]?.uuid}`,
    `firewall-rule/${rules[i]?.uuid}/${owner}`,
  ]);
  for (const [i, owner] of owners.entries()) await until(first, owner, wanted[i] ?? []);
  await until(first, gone, []);

  // What nobody changes any more is not looked at again: not by another instance that takes partitions over.
  for (const keys of wanted) for (const key of keys) await kv.del(desiredBucket.name, key);
  const second = await stack.start('fwapi', setupFwapi);
  const { member, broadcast } = second.context;
  const taken = new Set<number>();
  while (taken.size === 0) {
    for (let partition = 0; partition < broadcast.partitions; partition++) {
      // Whoever owns the partition has applied this when it is right, and so all that comes with taking it over.
      let owner = randomUUID();
      while (partitionOf(owner, broadcast.partitions) !== partition) owner = randomUUID();
      const vm = newVm(owner);
      await kv.batch([putVm(vm)]);
      await until(second, owner, [`firewall-vm/${vm.uuid}`]);
      const checkpoint = await readCheckpoint(kv, 'fwapi-firewall', partition);
      if (checkpoint?.owner.startsWith(member)) taken.add(partition);
    }
  }
  for (const owner of owners) expect(await keysOf(owner)).toEqual([]);
});
