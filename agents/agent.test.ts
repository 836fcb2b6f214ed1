import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { open, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Task } from './contract/wire.ts';
import { machineNamespace } from './driver/names.ts';
import { SimulatedDriver } from './driver/simulated.ts';
import type { Change } from './driver/types.ts';
import { type Ruleset, renderWhole } from './firewall/ruleset.ts';
import { FakeDatacenter } from './testing/datacenter.ts';
import { firewallVmObject, overlayObject, rule, ruleObject, testVm, vmObject } from './testing/objects.ts';
import { Gate, SimulatedNode } from './testing/simulated.ts';

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

const calls = (kind: string) => node.driver.calls.filter((call) => call.startsWith(kind));

describe('programming', () => {
  it('puts the firewall in force before a VM’s NIC comes and after it is gone', async () => {
    const vm = testVm(node.uuid, '192.168.1.5');
    datacenter.put(firewallVmObject(vm), vmObject(vm));
    await node.start([datacenter.url]);
    await datacenter.shown(node.uuid, datacenter.put(overlayObject([vm], new Map())));
    const order = () =>
      node.driver.calls.filter((call) => call.startsWith('nft') || call.includes(' ports '));
    expect(order().map((call) => call.slice(0, 9))).toEqual(['nft\nadd t', 'put ports']);
    node.driver.calls.length = 0;
    // One snapshot in which both are gone.
    await node.stop();
    datacenter.delete(`vm/${vm.uuid}`);
    const position = datacenter.delete(`firewall-vm/${vm.uuid}`);
    await node.start([datacenter.url]);
    await datacenter.shown(node.uuid, position);
    expect(order().map((call) => call.slice(0, 9))).toEqual(['remove po', 'nft\ndelet']);
    expect(node.driver.kernel.ports.size).toBe(0);
  });

  it('makes one nft call for a rule that changes, with what has changed and no more', async () => {
    const vms = Array.from({ length: 20 }, (_, i) => testVm(node.uuid, `192.168.1.${i + 5}`));
    for (const vm of vms) datacenter.put(vmObject(vm), firewallVmObject(vm));
    const body = rule({ in: { vms: vms.map((vm) => vm.uuid), peers: ['10.0.0.1', '10.0.0.2'] } });
    datacenter.put(ruleObject(body, [node.uuid]));
    await node.start([datacenter.url]);
    await datacenter.shown(node.uuid, datacenter.put(overlayObject(vms, new Map())));
    node.driver.calls.length = 0;
    const peers = ['10.0.0.2', '10.0.0.3'];
    await datacenter.shown(
      node.uuid,
      datacenter.put(ruleObject({ ...body, in: { vms: body.in?.vms ?? [], peers } }, [node.uuid])),
    );
    expect(node.driver.calls).toHaveLength(1);
    const lines = node.driver.calls[0]?.split('\n').slice(1, -1);
    expect(lines).toEqual([
      expect.stringMatching(/^delete element inet conger h\w+_in4 { 10\.0\.0\.1 }$/),
      expect.stringMatching(/^add element inet conger h\w+_in4 { 10\.0\.0\.3 }$/),
    ]);
  });

  it('gathers what comes while it works into one more run', async () => {
    const gate = new Gate();
    const reached = new Gate();
    class SlowDriver extends SimulatedDriver {
      runs = 0;
      override async loadFirewall(next: Ruleset, inForce: Ruleset | null): Promise<void> {
        this.runs += 1;
        if (this.runs === 2) {
          reached.open();
          await gate.opened;
        }
        await super.loadFirewall(next, inForce);
      }
    }
    const driver = new SlowDriver();
    await node.end();
    node = new SimulatedNode(driver);
    const vm = testVm(node.uuid, '192.168.1.5');
    datacenter.put(firewallVmObject(vm));
    await node.start([datacenter.url]);
    await datacenter.until(() => datacenter.applied.has(node.uuid));
    const position = Array.from({ length: 50 }, (_, i) =>
      datacenter.put(ruleObject(rule({ in: { vms: [vm.uuid], peers: [`10.0.0.${i + 1}`] } }), [node.uuid])),
    ).at(-1);
    await reached.opened;
    gate.open();
    await datacenter.shown(node.uuid, position ?? '');
    // How many came while the second run worked is the network's affair; that they came one by one is not.
    expect(driver.runs).toBeLessThan(10);
    expect(driver.firewall.tables[1]?.chains.get('in_1')?.rules).toHaveLength(51);
  });

  it('waits for the disk with what it says, not with what it does', async () => {
    class TellingDriver extends SimulatedDriver {
      readonly loaded = new Map<number, Gate>();
      override async loadFirewall(next: Ruleset, inForce: Ruleset | null): Promise<void> {
        await super.loadFirewall(next, inForce);
        this.loaded.get(next.tables[1]?.chains.get('in_1')?.rules.length ?? 0)?.open();
      }
    }
    const driver = new TellingDriver();
    await node.end();
    node = new SimulatedNode(driver);
    const vm = testVm(node.uuid, '192.168.1.5');
    datacenter.put(firewallVmObject(vm));
    await node.start([datacenter.url]);
    await datacenter.until(() => datacenter.applied.has(node.uuid));
    const before = datacenter.applied.get(node.uuid)?.position;
    // Whoever opens it for writing waits for a reader; and it cannot be made durable.
    const file = join(node.home, 'desired.json.new');
    execFileSync('mkfifo', [file]);
    let last = '';
    for (const rules of [2, 3, 4]) {
      const gate = new Gate();
      driver.loaded.set(rules, gate);
      const incoming = { vms: [vm.uuid], peers: [`10.0.0.${rules}`] };
      last = datacenter.put(ruleObject(rule({ in: incoming }), [node.uuid]));
      await gate.opened;
    }
    expect(datacenter.applied.get(node.uuid)?.position).toBe(before);
    const reader = await open(file, 'r');
    await rm(file);
    await reader.close();
    expect(await datacenter.shown(node.uuid, last)).toEqual([]);
    await node.stop();
    expect(await readFile(join(node.home, 'desired.json'), 'utf8')).toContain(last);
  });

  it('says when each position was in the kernel', async () => {
    const before = Date.now();
    await node.start([datacenter.url]);
    const vm = testVm(node.uuid, '192.168.1.5');
    const position = datacenter.put(firewallVmObject(vm));
    await datacenter.shown(node.uuid, position);
    const state = node.agent.state() as {
      applied: string;
      timings: { position: string; key: string; applied: number; received: number; requestId: string }[];
    };
    expect(state.applied >= position).toBe(true);
    const timing = state.timings.find((one) => one.position === position);
    // It was put before or after the connection's snapshot; either way the snapshot or the put is timed.
    const last = timing ?? state.timings.at(-1);
    expect(last?.applied).toBeGreaterThanOrEqual(before);
    expect(last?.applied).toBeGreaterThanOrEqual(last?.received ?? Number.POSITIVE_INFINITY);
  });
});

describe('objects that are not valid', () => {
  it('are refused one by one, also in a snapshot and after a restart', async () => {
    const good = testVm(node.uuid, '192.168.1.5');
    const bad = testVm(node.uuid, '192.168.1.6', { mac: 'rm -rf /' });
    const odd = { key: 'gateway/1', kind: 'gateway', v: 2, span: [node.uuid] };
    datacenter.put(vmObject(bad), odd, vmObject(good));
    await node.start([datacenter.url]);
    await datacenter.until(() => datacenter.applied.has(node.uuid));
    const failed = datacenter.applied.get(node.uuid)?.failed.map(({ key }) => key);
    expect(failed?.sort()).toEqual([odd.key, `vm/${bad.uuid}`].sort());
    expect([...node.driver.kernel.machines.keys()]).toEqual([good.uuid]);
    expect(await node.agent.verify()).toEqual([]);
    await node.stop();
    await node.start(['http://127.0.0.1:1']);
    expect((node.agent.state() as { failed: unknown[] }).failed).toHaveLength(2);
    expect([...node.driver.kernel.machines.keys()]).toEqual([good.uuid]);
  });

  it('leave what a valid one before them had made, also after a restart', async () => {
    const vm = testVm(node.uuid, '192.168.1.5');
    const far = testVm('elsewhere', '192.168.1.6');
    const overlay = overlayObject([vm, far], new Map([['elsewhere', '10.99.0.2']]));
    overlay.span.push(node.uuid);
    datacenter.put(vmObject(vm), overlay);
    await node.start([datacenter.url]);
    await datacenter.until(() => datacenter.applied.has(node.uuid));
    const before = structuredClone(node.driver.kernel);
    expect(before.forwards.size).toBe(1);
    const nonsense = { body: 'nonsense', span: [node.uuid] };
    datacenter.put({ ...vmObject(vm), ...nonsense } as never);
    const position = datacenter.put({ ...overlay, ...nonsense } as never);
    const failed = await datacenter.shown(node.uuid, position);
    expect(failed).toHaveLength(2);
    expect(node.driver.kernel).toEqual(before);
    await node.stop();
    datacenter.applied.clear();
    await node.start([datacenter.url]);
    await datacenter.until(() => datacenter.applied.has(node.uuid));
    expect(node.driver.kernel).toEqual(before);
    expect(datacenter.reports(vm.uuid).map(({ body }) => body.state)).not.toContain('destroyed');
  });

  it('turn a VM’s firewall on', async () => {
    const vm = testVm(node.uuid, '192.168.1.5');
    datacenter.put(vmObject(vm), { ...firewallVmObject(vm), body: {} } as never);
    await node.start([datacenter.url]);
    await datacenter.until(() => datacenter.applied.has(node.uuid));
    expect(node.driver.firewall.tables[1]?.chains.get('in_1')?.rules).toEqual(['drop']);
    expect(node.driver.firewall.tables[0]?.sets.get('receivers')?.elements.size).toBe(1);
  });
});

describe('what the kernel refuses', () => {
  class PickyDriver extends SimulatedDriver {
    refuse: RegExp | null = null;
    override async checkFirewall(ruleset: Ruleset): Promise<string | null> {
      return this.refuse?.test(renderWhole(ruleset)) ? 'no such thing' : null;
    }
    refuseVm = '';
    override async apply(changes: readonly Change[]): Promise<void> {
      if (
        changes.some(({ table, op, key }) => table === 'machines' && op === 'put' && key === this.refuseVm)
      ) {
        throw new Error('no room');
      }
      await super.apply(changes);
    }
  }
  let driver: PickyDriver;
  beforeEach(async () => {
    await node.end();
    driver = new PickyDriver();
    node = new SimulatedNode(driver);
  });

  it('of rules, closes for that rule alone, and opens once it is right', async () => {
    const vm = testVm(node.uuid, '192.168.1.5');
    const incoming = { vms: [vm.uuid], peers: 'any' as const };
    const good = ruleObject(rule({ types: [{ type: 1 }], in: incoming }), [node.uuid]);
    const allow = ruleObject(rule({ types: [{ type: 77 }], in: incoming }), [node.uuid]);
    const block = ruleObject(rule({ types: [{ type: 77 }], action: 'block', in: incoming }), [node.uuid]);
    driver.refuse = /icmp type \{ 77 \}/;
    datacenter.put(firewallVmObject(vm), good);
    await node.start([datacenter.url]);
    const inChain = () => driver.firewall.tables[1]?.chains.get('in_1')?.rules;
    const failed = await datacenter.shown(node.uuid, datacenter.put(allow));
    expect(failed).toEqual([{ key: allow.key, reason: expect.stringContaining('no such thing') }]);
    expect(inChain()).toEqual(['icmp type { 1 } accept', 'drop']);
    expect(await datacenter.shown(node.uuid, datacenter.put(block))).toHaveLength(2);
    expect(inChain()).toEqual(['meta nfproto ipv4 meta l4proto icmp drop', 'icmp type { 1 } accept', 'drop']);
    expect(await node.agent.verify()).toEqual([]);
    datacenter.delete(allow.key);
    const right = { ...block, body: { ...block.body, types: [{ type: 78 }] } };
    expect(await datacenter.shown(node.uuid, datacenter.put(right))).toEqual([]);
    expect(inChain()).toEqual(['icmp type { 1 } accept', 'icmp type { 78 } drop', 'drop']);
  });

  it('of VMs, keeps no other from being made, and is tried again', async () => {
    const [one, two] = [testVm(node.uuid, '192.168.1.5'), testVm(node.uuid, '192.168.1.6')];
    driver.refuseVm = one.uuid;
    datacenter.put(vmObject(one), vmObject(two));
    await node.start([datacenter.url]);
    await datacenter.until(() => datacenter.applied.has(node.uuid));
    expect(datacenter.applied.get(node.uuid)?.failed).toEqual([{ key: `vm/${one.uuid}`, reason: 'no room' }]);
    expect([...driver.kernel.machines.keys()]).toEqual([two.uuid]);
    driver.refuseVm = '';
    await datacenter.until(() => datacenter.applied.get(node.uuid)?.failed.length === 0);
    await datacenter.until(() => datacenter.reports(one.uuid).length > 0);
    expect(datacenter.reports(one.uuid)[0]?.body.state).toBe('running');
  });
});

describe('the connection', () => {
  it('registers, then says who it is, and registers again where it is not known', async () => {
    datacenter.respond = () => 503;
    await node.start([datacenter.url]);
    await datacenter.until(() => datacenter.requests.length >= 3);
    expect(datacenter.connections.size).toBe(0);
    datacenter.respond = () => 200;
    await datacenter.until(() => datacenter.applied.has(node.uuid));
    const { sysinfo } = (datacenter.requests.at(-1)?.body ?? {}) as { sysinfo: Record<string, unknown> };
    expect(sysinfo).toMatchObject({ UUID: node.uuid, Hostname: 'node', Setup: true });
    expect(sysinfo['Network Interfaces']).toMatchObject({ underlay: { ip4addr: '10.99.0.1' } });
  });

  it('goes to another instance when one dies, and misses nothing in between', async () => {
    const dead = await new FakeDatacenter().start();
    const { url } = dead;
    await dead.stop();
    await node.start([url, datacenter.url]);
    await datacenter.until(() => datacenter.applied.has(node.uuid));
    datacenter.cut();
    const vm = testVm(node.uuid, '192.168.1.5');
    await datacenter.shown(node.uuid, datacenter.put(vmObject(vm)));
    expect(node.driver.kernel.machines.has(vm.uuid)).toBe(true);
  });

  it('notices an instance that hangs', async () => {
    await node.start([datacenter.url], { silenceMs: 200 });
    await datacenter.until(() => datacenter.applied.has(node.uuid));
    const connections = () => datacenter.connections.get(node.uuid) ?? 0;
    const before = connections();
    datacenter.freeze();
    await datacenter.until(() => connections() > before);
    const vm = testVm(node.uuid, '192.168.1.5');
    await datacenter.shown(node.uuid, datacenter.put(vmObject(vm)));
  });

  it('removes nothing before it knows anything', async () => {
    const vm = testVm(node.uuid, '192.168.1.5');
    datacenter.put(vmObject(vm));
    await node.start([datacenter.url]);
    await datacenter.until(() => datacenter.applied.has(node.uuid));
    await node.stop();
    await writeFile(join(node.home, 'desired.json'), '{"v":1,"posi');
    node.driver.calls.length = 0;
    await node.start(['http://127.0.0.1:1']);
    await node.agent.reconcile();
    expect(node.driver.kernel.machines.size).toBe(1);
    await node.stop();
    datacenter.applied.clear();
    await node.start([datacenter.url]);
    await datacenter.until(() => datacenter.applied.has(node.uuid));
    expect(calls('remove')).toEqual([]);
    expect(await node.agent.verify()).toEqual([]);
  });
});

describe('reports of VMs', () => {
  it('are told until VMAPI takes them, the latest state only, over restarts', async () => {
    const vm = testVm(node.uuid, '192.168.1.5');
    datacenter.respond = ({ path }) => (path.startsWith('/vms/') ? 500 : 200);
    datacenter.put(vmObject(vm));
    await node.start([datacenter.url]);
    await datacenter.until(() => datacenter.reports(vm.uuid).length >= 2);
    await datacenter.shown(node.uuid, datacenter.put(vmObject(vm, { state: 'stopped' })));
    await node.stop();
    // The VM goes while its agent is away: the end is told all the same.
    datacenter.delete(`vm/${vm.uuid}`);
    await node.start([datacenter.url]);
    await datacenter.until(() => datacenter.reports(vm.uuid).at(-1)?.body.state === 'destroyed');
    datacenter.respond = () => 200;
    const refused = datacenter.reports(vm.uuid).length;
    await datacenter.until(() => datacenter.reports(vm.uuid).length > refused);
    expect(datacenter.reports(vm.uuid).at(-1)?.body).toMatchObject({
      state: 'destroyed',
      zone_state: 'destroyed',
      server_uuid: node.uuid,
    });
    const state = () => node.agent.state() as { vms: unknown[] };
    // Once taken, nothing of it is left.
    const other = testVm(node.uuid, '192.168.1.6');
    await datacenter.shown(node.uuid, datacenter.put(vmObject(other)));
    await datacenter.until(() => datacenter.reports(other.uuid).length > 0);
    expect(state().vms).toEqual([expect.objectContaining({ uuid: other.uuid })]);
  });

  it('tell the end of a VM that came and went before it was made', async () => {
    const gate = new Gate();
    class GatedDriver extends SimulatedDriver {
      override async setup(): Promise<void> {
        await gate.opened;
      }
    }
    await node.end();
    node = new SimulatedNode(new GatedDriver());
    await node.start([datacenter.url]);
    await datacenter.until(() => datacenter.connections.get(node.uuid) === 1);
    const vm = testVm(node.uuid, '192.168.1.5');
    datacenter.put(vmObject(vm));
    const position = datacenter.delete(`vm/${vm.uuid}`);
    gate.open();
    await datacenter.until(() => datacenter.reports(vm.uuid).length > 0);
    expect(datacenter.reports(vm.uuid)[0]?.body.state).toBe('destroyed');
    expect(datacenter.reports(vm.uuid)[0]?.requestId).toBe(`req-${position}`);
  });

  it('of one VM do not wait for another’s', async () => {
    const [stuck, free] = [testVm(node.uuid, '192.168.1.5'), testVm(node.uuid, '192.168.1.6')];
    datacenter.respond = ({ path }) => (path === `/vms/${stuck.uuid}` ? 409 : 200);
    datacenter.put(vmObject(stuck));
    await node.start([datacenter.url]);
    await datacenter.until(() => datacenter.reports(stuck.uuid).length >= 2);
    datacenter.put(vmObject(free));
    await datacenter.until(() => datacenter.reports(free.uuid).length === 1);
  });

  it('come after the reboot that was asked for, which makes the VM anew', async () => {
    const vm = testVm(node.uuid, '192.168.1.5');
    datacenter.put(vmObject(vm));
    await node.start([datacenter.url]);
    await datacenter.until(() => datacenter.reports(vm.uuid).length === 1);
    node.driver.calls.length = 0;
    datacenter.put(vmObject(vm, { reboots: 1 }));
    await datacenter.until(() => datacenter.reports(vm.uuid).length === 2);
    expect(calls('remove machines')).toHaveLength(1);
    expect(node.driver.kernel.ports.size).toBe(1);
    const [first, second] = datacenter.reports(vm.uuid).map(({ body }) => String(body.last_modified));
    expect((second ?? '') > (first ?? '')).toBe(true);
    expect(machineNamespace('sim', vm.uuid)).toBe(node.driver.kernel.machines.get(vm.uuid)?.namespace);
    // A restarted agent does not do it again.
    await node.stop();
    await node.start([datacenter.url]);
    await datacenter.until(() => datacenter.reports(vm.uuid).length === 3);
    expect(calls('remove machines')).toHaveLength(1);
  });
});

describe('tasks', () => {
  const results = () => datacenter.requests.filter(({ path }) => path.startsWith('/tasks/'));
  const task = (name: string, params: Record<string, unknown> = {}): Task => ({
    id: randomUUID(),
    task: name,
    server_uuid: node.uuid,
    req_id: randomUUID(),
    params,
  });

  it('are answered with what came of them', async () => {
    const [fine, bad, machine] = [task('nop'), task('nop', { error: 'as told' }), task('machine_create')];
    for (const one of [fine, bad, machine]) datacenter.task(one);
    await node.start([datacenter.url]);
    await datacenter.until(() => results().length === 3);
    const of = (one: Task) => results().find(({ path }) => path === `/tasks/${one.id}/result`);
    expect(of(fine)?.body).toEqual({ status: 'complete', result: {} });
    expect(of(fine)?.requestId).toBe(fine.req_id);
    expect(of(bad)?.body).toEqual({ status: 'failure', error: { message: 'as told' } });
    expect(of(machine)?.body.status).toBe('failure');
    expect(JSON.stringify(of(machine)?.body)).toContain('machine_create');
  });

  it('are not run again when they are sent again, also to a restarted agent', async () => {
    const one = task('nop', { error: 'first' });
    datacenter.task(one);
    datacenter.respond = ({ path }) => (path.startsWith('/tasks/') ? 503 : 200);
    await node.start([datacenter.url]);
    await datacenter.until(() => results().length >= 1);
    await node.stop();
    // Had it run again, the outcome would be another.
    datacenter.task({ ...one, params: {} });
    datacenter.respond = () => 200;
    const before = results().length;
    await node.start([datacenter.url]);
    await datacenter.until(() => results().length > before);
    expect(results().at(-1)?.body).toEqual({ status: 'failure', error: { message: 'first' } });
  });
});
