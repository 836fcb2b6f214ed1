import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { portName } from './driver/names.ts';
import { FakeDatacenter } from './testing/datacenter.ts';
import { firewallVmObject, rule, ruleObject, type TestVm, testVm, vmObject } from './testing/objects.ts';
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

const tables = () => node.driver.firewall.tables;
const guarded = () => [...(tables()[0]?.sets.get('receivers')?.elements.keys() ?? [])].sort();
const ports = (...vms: TestVm[]) => vms.map((vm) => `"${portName(vm.mac)}"`).sort();
const chain = (name: string) => tables()[1]?.chains.get(name)?.rules;
const shown = (position: string) => datacenter.shown(node.uuid, position);

describe('a VM that says that its firewall is on', () => {
  it('is guarded before its NIC comes, though nothing of FWAPI is there', async () => {
    const [vm, open] = [testVm(node.uuid, '192.168.1.5'), testVm(node.uuid, '192.168.1.6')];
    datacenter.put(vmObject(vm, { firewall_enabled: true }), vmObject(open));
    await node.start([datacenter.url]);
    await datacenter.until(() => datacenter.applied.has(node.uuid));
    const order = node.driver.calls.filter((call) => call.startsWith('nft') || call.includes(' ports '));
    expect(order.map((call) => call.slice(0, 9))).toEqual(['nft\nadd t', 'put ports', 'put ports']);
    expect(guarded()).toEqual(ports(vm));
    expect(chain('in_1')).toEqual(['drop']);
    expect(chain('out_1')).toEqual([]);
    expect(await node.agent.verify()).toEqual([]);
  });

  it('has its rules, and stays guarded whichever of the two objects goes', async () => {
    const vm = testVm(node.uuid, '192.168.1.5');
    datacenter.put(vmObject(vm, { firewall_enabled: true }));
    await node.start([datacenter.url]);
    const incoming = { vms: [vm.uuid], peers: 'any' as const };
    await shown(datacenter.put(ruleObject(rule({ types: 'all', in: incoming }), [node.uuid])));
    const whole = chain('in_1');
    expect(whole).toHaveLength(2);
    await shown(datacenter.put(firewallVmObject(vm)));
    expect(guarded()).toEqual(ports(vm));
    expect(chain('in_1')).toEqual(whole);
    await shown(datacenter.put(vmObject(vm)));
    expect(guarded()).toEqual(ports(vm));
    await shown(datacenter.put(vmObject(vm, { firewall_enabled: true })));
    await shown(datacenter.delete(`firewall-vm/${vm.uuid}`));
    expect(guarded()).toEqual(ports(vm));
    await shown(datacenter.put(vmObject(vm)));
    expect(guarded()).toEqual([]);
  });

  it('stays guarded when its object is no longer valid; one that says nothing of it is as before', async () => {
    const [on, off] = [testVm(node.uuid, '192.168.1.5'), testVm(node.uuid, '192.168.1.6')];
    datacenter.put(vmObject(on, { firewall_enabled: true }), vmObject(off));
    await node.start([datacenter.url]);
    await datacenter.until(() => datacenter.applied.has(node.uuid));
    const broken = (vm: TestVm, body: unknown) => ({ ...vmObject(vm), body }) as never;
    datacenter.put(broken(off, { uuid: off.uuid }));
    await shown(datacenter.put(broken(on, { uuid: on.uuid, firewall_enabled: true })));
    expect(guarded()).toEqual(ports(on));
    await shown(datacenter.put(broken(off, 'nonsense')));
    expect(guarded()).toEqual(ports(on, off));
    expect(node.driver.kernel.ports.size).toBe(2);
  });

  it('need not say anything: writers of before did not', async () => {
    const [open, closed] = [testVm(node.uuid, '192.168.1.5'), testVm(node.uuid, '192.168.1.6')];
    const older = (vm: TestVm) => {
      const { firewall_enabled: _, ...body } = vmObject(vm).body;
      return { ...vmObject(vm), body };
    };
    datacenter.put(older(open), older(closed), firewallVmObject(closed));
    await node.start([datacenter.url]);
    await datacenter.until(() => datacenter.applied.has(node.uuid));
    expect(datacenter.applied.get(node.uuid)?.failed).toEqual([]);
    expect(node.driver.kernel.ports.size).toBe(2);
    expect(guarded()).toEqual(ports(closed));
  });
});
