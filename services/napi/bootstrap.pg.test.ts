import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { desiredBucket } from '../../agents/contract/desired.ts';
import { query } from '../../changefeed/capture/wal.testing.ts';
import { checkpointBucket } from '../../changefeed/checkpoint.ts';
import { sdcClient } from '../../test/fixtures/sdc.ts';
import { type Instance, type Stack, startStack } from '../../test/fixtures/stack.ts';
import { setupNapi } from './setup.ts';
import { type Obj, zoneNic } from './testing/napi.ts';

// Everything here waits for PostgreSQL's disk.
vi.setConfig({ testTimeout: 180_000, hookTimeout: 240_000 });

let stack: Stack;
beforeAll(async () => {
  stack = await startStack();
});
afterAll(() => stack?.close());

/** Waits until there is an object of this key in the desired state, and answers its value. */
function overlay({ context: { broadcast, kv } }: Instance, key: string) {
  return broadcast.waitFor({ bucket: desiredBucket.name, key, timeoutMs: 150_000 }, async () => {
    const object = await kv.tryGet<unknown>(desiredBucket.name, key);
    return object?.value;
  });
}

test('a consumer that begins on a log without history derives the overlays from the state', async () => {
  const first = await stack.start('napi', setupNapi);
  const client = sdcClient('NAPI', first.url);
  const server = randomUUID();
  await client.call('createNic', '02:00:00:00:00:01', {
    owner_uuid: randomUUID(),
    belongs_to_type: 'server',
    belongs_to_uuid: server,
    ip: '10.99.1.1',
    nic_tag: 'underlay',
    vlan_id: 0,
    underlay: true,
    nic_tags_provided: ['underlay'],
  });
  const keys: string[] = [];
  for (let i = 0; i < 5; i++) {
    const owner = randomUUID();
    await client.call('createFabricVLAN', owner, { name: 'a vlan', vlan_id: 2 });
    const network = await client.call<Obj & { uuid: string }>('createFabricNetwork', owner, 2, {
      name: 'a net',
      subnet: '192.168.1.0/24',
      provision_start_ip: '192.168.1.5',
      provision_end_ip: '192.168.1.250',
    });
    await client.call('provisionNic', network.uuid, zoneNic({ owner_uuid: owner, cn_uuid: server }));
    keys.push(`overlay/${network.uuid}`);
  }
  const before = await Promise.all(keys.map((key) => overlay(first, key)));
  client.close();
  await first.stop();

  for (const key of keys) await stack.kv.del(desiredBucket.name, key);
  const checkpoints = await stack.kv.find(checkpointBucket, '(consumer=napi-overlay)', { noLimit: true });
  for (const { key } of checkpoints.objects) await stack.kv.del(checkpointBucket, key);
  await query(stack.postgres, 'DELETE FROM conger_log');
  const second = await stack.start('napi', setupNapi);
  expect(await Promise.all(keys.map((key) => overlay(second, key)))).toEqual(before);
});
