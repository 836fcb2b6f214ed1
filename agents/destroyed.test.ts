import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { SimulatedDriver } from './driver/simulated.ts';
import type { Change } from './driver/types.ts';
import { FakeDatacenter } from './testing/datacenter.ts';
import { testVm, vmObject } from './testing/objects.ts';
import { SimulatedNode } from './testing/simulated.ts';

let datacenter: FakeDatacenter;
let node: SimulatedNode;
beforeEach(async () => {
  datacenter = await new FakeDatacenter().start();
  node = new SimulatedNode();
});
afterEach(async () => {
  await node.end();
  await datacenter.stop();
});

/** Something else happens on the node, and is told: whatever was to be told before it has been begun. */
async function another(): Promise<string> {
  const vm = testVm(node.uuid, '192.168.1.99');
  await datacenter.shown(node.uuid, datacenter.put(vmObject(vm)));
  await datacenter.until(() => datacenter.reports(vm.uuid).length > 0);
  return vm.uuid;
}

const known = () => (node.agent.state() as { vms: { uuid: string }[] }).vms.map(({ uuid }) => uuid);
const told = (uuid: string) => datacenter.reports(uuid).map(({ body }) => body.state);

describe('a VM that is to be destroyed', () => {
  it('is reported so though the node never had it, once, again after a restart, until the object is gone', async () => {
    const vm = testVm(node.uuid, '192.168.1.5');
    const object = vmObject(vm, { state: 'destroyed' });
    datacenter.put(object);
    await node.start([datacenter.url]);
    await datacenter.until(() => datacenter.reports(vm.uuid).length === 1);
    expect(datacenter.reports(vm.uuid)[0]?.body).toMatchObject({
      state: 'destroyed',
      zone_state: 'destroyed',
      server_uuid: node.uuid,
    });
    datacenter.cut();
    const others = [await another()];
    expect(told(vm.uuid)).toEqual(['destroyed']);
    expect(node.driver.kernel.machines.has(vm.uuid)).toBe(false);

    await node.stop();
    await node.start([datacenter.url]);
    await datacenter.until(() => datacenter.reports(vm.uuid).length === 2);
    await datacenter.shown(node.uuid, datacenter.delete(object.key));
    others.push(await another());
    expect(told(vm.uuid)).toEqual(['destroyed', 'destroyed']);
    expect(known().sort()).toEqual(others.sort());
    expect(await node.agent.verify()).toEqual([]);
  });

  it('is reported until that is accepted, also by an agent whose disk was lost', async () => {
    const vm = testVm(node.uuid, '192.168.1.5');
    datacenter.respond = ({ path }) => (path.startsWith('/vms/') ? 503 : 200);
    datacenter.put(vmObject(vm, { state: 'destroyed' }));
    await node.start([datacenter.url]);
    await datacenter.until(() => datacenter.reports(vm.uuid).length >= 2);
    await node.end();
    const { uuid, driver } = node;
    node = new SimulatedNode(driver, uuid);
    datacenter.respond = () => 200;
    const refused = datacenter.reports(vm.uuid).length;
    await node.start([datacenter.url]);
    await datacenter.until(() => datacenter.reports(vm.uuid).length > refused);
    expect(told(vm.uuid).at(-1)).toBe('destroyed');
  });

  it('is not reported so before it is gone', async () => {
    class StubbornDriver extends SimulatedDriver {
      refuse = true;
      override async apply(changes: readonly Change[]): Promise<void> {
        if (this.refuse && changes.some(({ table, op }) => table === 'machines' && op === 'remove')) {
          throw new Error('busy');
        }
        await super.apply(changes);
      }
    }
    const driver = new StubbornDriver();
    await node.end();
    node = new SimulatedNode(driver);
    const vm = testVm(node.uuid, '192.168.1.5');
    datacenter.put(vmObject(vm));
    await node.start([datacenter.url]);
    await datacenter.until(() => datacenter.reports(vm.uuid).length === 1);
    const asked = datacenter.put(vmObject(vm, { state: 'destroyed' }));
    expect(await datacenter.shown(node.uuid, asked)).toEqual([{ key: `vm/${vm.uuid}`, reason: 'busy' }]);
    await another();
    expect(told(vm.uuid)).toEqual(['running']);
    driver.refuse = false;
    await datacenter.until(() => datacenter.reports(vm.uuid).length === 2);
    expect(datacenter.reports(vm.uuid)[1]).toMatchObject({
      body: { state: 'destroyed' },
      requestId: `req-${asked}`,
    });
    expect(driver.kernel.machines.has(vm.uuid)).toBe(false);
    expect(driver.kernel.ports.has(`v${vm.mac.replaceAll(':', '')}`)).toBe(false);
  });
});
