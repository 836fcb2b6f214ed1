import { describe, expect, it } from 'vitest';
import { silentLogger } from '../../runtime/log.ts';
import { fabricBridge, portName, vxlanName } from '../driver/names.ts';
import { SimulatedDriver } from '../driver/simulated.ts';
import { emptyKernel, type Kernel } from '../driver/types.ts';
import { LinkReconciler } from './links.ts';
import { sequence } from './sequence.ts';

/** A small generator of numbers that is the same for the same seed. */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** Any kernel that hangs together: every port has its bridge and VM, every entry its device. */
function randomKernel(below: (n: number) => number): Kernel {
  const kernel = emptyKernel();
  for (const vni of [1, 2, 3]) {
    const bridge = fabricBridge(vni, 2);
    if (below(3) > 0) kernel.bridges.set(bridge, { up: true });
    if (!kernel.bridges.has(bridge) || below(3) === 0) continue;
    const vxlan = vxlanName(vni, 2);
    kernel.vxlans.set(vxlan, { vni, port: 4789, local: `10.99.0.${below(2)}`, bridge, sound: true });
    for (const host of [1, 2, 3]) {
      const mac = `02:00:00:00:0${vni}:0${host}`;
      const ip = `10.0.0.${host}`;
      if (below(2))
        kernel.forwards.set(`${vxlan} ${mac}`, { vxlan, mac, remote: `10.99.1.${below(2)}`, bridged: true });
      if (below(2)) kernel.neighbours.set(`${bridge} ${ip}`, { bridge, ip, mac });
    }
  }
  const bridges = [...kernel.bridges.keys()];
  for (const vm of ['a', 'b', 'c']) {
    if (below(3) === 0) continue;
    const running = below(3) > 0;
    kernel.machines.set(vm, { namespace: `t-vm-${vm}`, running });
    const bridge = bridges[below(bridges.length)];
    if (!running || bridge === undefined) continue;
    const mac = `02:00:00:00:aa:0${below(3)}`;
    const row = {
      machine: vm,
      interface: 'net0',
      mac,
      bridge,
      mtu: 1400,
      ip: `10.0.0.${below(9)}/24`,
      gateway: null,
      up: true,
    };
    kernel.ports.set(portName(mac), row);
  }
  return kernel;
}

describe('sequence', () => {
  it('from any kernel to any other ends there, in an order that a kernel takes', async () => {
    const below = random(11);
    const driver = new SimulatedDriver();
    const links = new LinkReconciler(driver, silentLogger());
    for (let step = 0; step < 400; step++) {
      const desired = randomKernel(below);
      const restarts = new Set([...desired.machines.keys()].filter(() => below(4) === 0));
      // Whether it knows the kernel or has to read it back makes no difference.
      if (below(3) === 0) links.forget();
      expect(await links.reconcile(desired, restarts, async () => {})).toEqual(new Map());
      expect(driver.kernel).toEqual(desired);
      driver.calls.length = 0;
      await links.reconcile(structuredClone(desired), new Set(), async () => {});
      expect(driver.calls).toEqual([]);
    }
  });

  it('goes on after any failure from what the kernel then shows', async () => {
    const below = random(12);
    class FailingDriver extends SimulatedDriver {
      left = Number.POSITIVE_INFINITY;
      override async apply(...args: Parameters<SimulatedDriver['apply']>): Promise<void> {
        for (const change of args[0]) {
          this.left -= 1;
          if (this.left === 0) throw new Error('just now');
          await super.apply([change]);
        }
      }
    }
    const driver = new FailingDriver();
    const links = new LinkReconciler(driver, silentLogger());
    for (let step = 0; step < 200; step++) {
      const desired = randomKernel(below);
      driver.left = 1 + below(12);
      expect(await links.reconcile(desired, new Set(), async () => {})).toEqual(new Map());
      expect(driver.kernel).toEqual(desired);
    }
  });

  it('lets nothing come when the firewall cannot be put in force, and takes away what has to go', async () => {
    const below = random(13);
    const driver = new SimulatedDriver();
    const links = new LinkReconciler(driver, silentLogger());
    const before = randomKernel(below);
    await links.reconcile(before, new Set(), async () => {});
    const after = emptyKernel();
    after.bridges.set('bf9.2', { up: true });
    const refused = links.reconcile(after, new Set(), async () => {
      throw new Error('no firewall');
    });
    await expect(refused).rejects.toThrow('no firewall');
    expect(driver.kernel.ports.size).toBe(0);
    expect(driver.kernel.bridges.has('bf9.2')).toBe(false);
  });

  it('touches only what differs', () => {
    const kernel = randomKernel(random(14));
    kernel.machines.set('d', { namespace: 't-vm-d', running: true });
    const other = structuredClone(kernel);
    other.machines.set('d', { namespace: 't-vm-d', running: false });
    const { teardown, setup, tidy } = sequence(other, kernel, new Set());
    expect([...teardown, ...setup, ...tidy].map(({ op, table, key }) => `${op} ${table} ${key}`)).toEqual([
      'set machines d',
    ]);
  });
});
