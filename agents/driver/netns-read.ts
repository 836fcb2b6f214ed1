import { existsSync } from 'node:fs';
import { z } from 'zod';
import { run } from './exec.ts';
import { portName } from './names.ts';
import { emptyKernel, type Kernel } from './types.ts';

const linkSchema = z.object({
  ifname: z.string(),
  flags: z.array(z.string()),
  mtu: z.number(),
  master: z.string().optional(),
  linkinfo: z
    .object({
      info_kind: z.string().optional(),
      info_data: z
        .object({
          id: z.number().optional(),
          local: z.string().optional(),
          port: z.number().optional(),
          learning: z.boolean().optional(),
        })
        .optional(),
      info_slave_data: z
        .object({ learning: z.boolean().optional(), neigh_suppress: z.boolean().optional() })
        .optional(),
    })
    .optional(),
});
const fdbSchema = z.object({
  mac: z.string(),
  ifname: z.string(),
  dst: z.string().optional(),
  flags: z.array(z.string()),
  master: z.string().optional(),
  state: z.string().optional(),
});
const neighbourSchema = z.object({ dst: z.string(), dev: z.string(), lladdr: z.string().optional() });
const addressSchema = z.object({
  ifname: z.string(),
  address: z.string().optional(),
  flags: z.array(z.string()),
  mtu: z.number(),
  addr_info: z.array(z.object({ local: z.string().optional(), prefixlen: z.number(), scope: z.string() })),
});
const routeSchema = z.object({
  dst: z.string(),
  gateway: z.string().optional(),
  dev: z.string().optional(),
});

/** `ip -j` answers an empty list with nothing at all, and an element that it leaves out as `{}`. */
function rows<T>(schema: z.ZodType<T>, text: string): T[] {
  const list: unknown = text.trim() === '' ? [] : JSON.parse(text);
  return z
    .array(z.unknown())
    .parse(list)
    .flatMap((item) => {
      const empty = typeof item === 'object' && item !== null && Object.keys(item).length === 0;
      return empty ? [] : [schema.parse(item)];
    });
}

/** How many VMs are read at once. */
const readers = 4;

const isUp = ({ flags }: { flags: readonly string[] }) => flags.includes('UP');

/** Reads what concerns VMs and networks from the node's namespace and the namespaces of its VMs (name to UUID). */
export async function readKernel(node: string, namespaces: ReadonlyMap<string, string>): Promise<Kernel> {
  const kernel = emptyKernel();
  const [linkText, fdbText, neighbourText] = await Promise.all([
    run('ip', ['-n', node, '-j', '-d', 'link', 'show']),
    run('bridge', ['-n', node, '-j', 'fdb', 'show']),
    run('ip', ['-n', node, '-j', 'neigh', 'show', 'nud', 'permanent']),
  ]);
  const links = rows(linkSchema, linkText);
  for (const link of links) {
    const kind = link.linkinfo?.info_kind;
    if (kind === 'bridge') kernel.bridges.set(link.ifname, { up: isUp(link) });
    if (kind === 'vxlan') {
      const data = link.linkinfo?.info_data;
      const port = link.linkinfo?.info_slave_data;
      kernel.vxlans.set(link.ifname, {
        vni: data?.id ?? 0,
        port: data?.port ?? 0,
        local: data?.local ?? '',
        bridge: link.master ?? '',
        sound:
          isUp(link) && data?.learning === false && port?.learning === false && port.neigh_suppress === true,
      });
    }
    if (kind === 'veth' && link.ifname !== 'underlay') {
      kernel.ports.set(link.ifname, {
        machine: '',
        interface: '',
        mac: '',
        bridge: link.master ?? '',
        mtu: link.mtu,
        ip: '',
        gateway: null,
        up: isUp(link),
      });
    }
  }
  readForwards(kernel, rows(fdbSchema, fdbText));
  for (const { dst, dev, lladdr } of rows(neighbourSchema, neighbourText)) {
    if (kernel.bridges.has(dev))
      kernel.neighbours.set(`${dev} ${dst}`, { bridge: dev, ip: dst, mac: lladdr ?? '' });
  }
  const waiting = [...namespaces].filter(([namespace]) => existsSync(`/run/netns/${namespace}`));
  const reader = async () => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      await readMachine(kernel, ...next);
    }
  };
  await Promise.all(Array.from({ length: readers }, reader));
  return kernel;
}

function readForwards(kernel: Kernel, entries: readonly z.infer<typeof fdbSchema>[]): void {
  for (const { mac, ifname, dst, flags, master, state } of entries) {
    if (!kernel.vxlans.has(ifname)) continue;
    const key = `${ifname} ${mac}`;
    const now = kernel.forwards.get(key) ?? { vxlan: ifname, mac, remote: '', bridged: false };
    if (flags.includes('self') && dst !== undefined) kernel.forwards.set(key, { ...now, remote: dst });
    if (master !== undefined && state === 'static') kernel.forwards.set(key, { ...now, bridged: true });
  }
}

async function readMachine(kernel: Kernel, namespace: string, vm: string): Promise<void> {
  let text: string;
  try {
    text = await run('ip', ['-n', namespace, '-j', '-batch', '-'], 'addr show\nroute show table all\n');
  } catch {
    // A namespace that cannot be entered was not made to its end: it is there, and not as it should be.
    kernel.machines.set(vm, { namespace: `${namespace} (half made)`, running: false });
    return;
  }
  const [addressText = '', routeText = ''] = text.split('\n').filter((line) => line.startsWith('['));
  const devices = rows(addressSchema, addressText);
  const routes = rows(routeSchema, routeText).filter(({ dst }) => dst === 'default');
  const loopback = devices.find(({ ifname }) => ifname === 'lo');
  kernel.machines.set(vm, { namespace, running: loopback !== undefined && isUp(loopback) });
  for (const device of devices) {
    const port = portName(device.address ?? '');
    const seen = kernel.ports.get(port);
    if (device.ifname === 'lo' || seen === undefined) continue;
    // What else a VM puts on its devices is its own affair.
    const first = device.addr_info.find(({ scope, local }) => scope === 'global' && local !== undefined);
    kernel.ports.set(port, {
      ...seen,
      machine: vm,
      interface: device.ifname,
      mac: device.address ?? '',
      mtu: device.mtu === seen.mtu ? device.mtu : 0,
      ip: first === undefined ? '' : `${first.local}/${first.prefixlen}`,
      gateway: routes.find(({ dev }) => dev === device.ifname)?.gateway ?? null,
      up: seen.up && isUp(device),
    });
  }
}
