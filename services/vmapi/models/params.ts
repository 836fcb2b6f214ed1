import { z } from 'zod';
import { metadataSchema } from './metadata.ts';
import { networksSchema } from './networks.ts';
import { isHardware } from './vm.ts';

/** The parameters of VMAPI's calls: names, limits and messages are Triton's. Flags and numbers may come as text. */

export const uuid = z
  .string()
  .regex(/^[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}$/, 'Invalid UUID');

export const flag = z
  .union([z.boolean(), z.enum(['true', 'false'])], { error: 'Invalid parameter' })
  .transform((given) => given === true || given === 'true');

export function number(min = 0, max = Number.MAX_SAFE_INTEGER) {
  const error = `Not a valid number: number must be >= ${min}${max < Number.MAX_SAFE_INTEGER ? ` and <= ${max}` : ''}`;
  return z
    .union([z.number(), z.string().regex(/^\d+$/)], { error })
    .transform(Number)
    .pipe(z.number().min(min, error).max(max, error));
}

export const brands = ['bhyve', 'joyent', 'joyent-minimal', 'kvm', 'lx'] as const;
export const brand = z.enum(brands, {
  error: (issue) => (issue.input === undefined ? undefined : `Must be one of: ${brands.join(', ')}`),
});

export const alias = z
  .string()
  .max(189, 'String is longer than maximum of 189 characters')
  .regex(
    /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/,
    'String does not match regexp: /^[a-zA-Z0-9][a-zA-Z0-9\\_\\.\\-]*$/',
  );

const domain = /^[a-z0-9][a-z0-9-]{0,62}(?:\.[a-z0-9][a-z0-9-]{0,62})*$/i;
const text = z.string();

/** Who asks, and how: parameters of every call that makes a job. */
export const callFields = {
  sync: flag.optional(),
  owner_uuid: uuid.optional(),
  origin: text.optional(),
  creator_uuid: text.optional(),
};

/** Fields that can be given when a VM is created and changed later. */
const mutableFields = {
  alias: alias.optional(),
  autoboot: flag.optional(),
  billing_id: uuid.optional(),
  cpu_cap: number().optional(),
  cpu_shares: number().optional(),
  do_not_inventory: flag.optional(),
  firewall_enabled: flag.optional(),
  fs_allowed: text.optional(),
  indestructible_delegated: flag.optional(),
  indestructible_zoneroot: flag.optional(),
  limit_priv: text.optional(),
  maintain_resolvers: flag.optional(),
  max_locked_memory: number().optional(),
  max_lwps: number().optional(),
  max_physical_memory: number().optional(),
  max_swap: number().optional(),
  package_name: text.optional(),
  package_version: text.optional(),
  quota: number().optional(),
  ram: number(1).optional(),
  resolvers: z.array(text, { error: 'Not an array' }).optional(),
  tmpfs: number().optional(),
  zfs_data_compression: text.optional(),
  zfs_io_priority: number().optional(),
  zfs_snapshot_limit: number().nullable().optional(),
  zlog_max_size: number().optional(),
};

const minSwap = 256;
const swap = number().pipe(z.number().min(minSwap, `Cannot be less than ${minSwap}`));
const disk = z.looseObject({
  image_uuid: uuid.optional(),
  size: z.union([number(1), z.literal('remaining')]).optional(),
});

/** A parameter that is needed because of others; told together with whatever else is wrong. */
function missing(field: string) {
  return { path: [field], message: 'missing parameter', when: () => true };
}

export const createSchema = z
  .strictObject({
    ...callFields,
    ...mutableFields,
    owner_uuid: uuid,
    uuid: uuid.optional(),
    brand,
    networks: networksSchema,
    image_uuid: uuid.optional(),
    server_uuid: uuid.optional(),
    max_swap: swap.optional(),
    customer_metadata: metadataSchema('customer_metadata', { creating: true }).optional(),
    internal_metadata: metadataSchema('internal_metadata', { creating: true }).optional(),
    tags: metadataSchema('tags', { creating: true }).optional(),
    cpu_type: text.optional(),
    delegate_dataset: flag.optional(),
    disk_driver: text.optional(),
    disks: z.array(disk).min(1).optional(),
    dns_domain: text.max(255).regex(domain).optional(),
    docker: flag.optional(),
    filesystems: z.array(z.looseObject({})).optional(),
    flexible_disk_size: number().optional(),
    hostname: text.max(64).regex(domain).optional(),
    init_name: text.optional(),
    kernel_version: text.optional(),
    mdata_exec_timeout: number(1).optional(),
    nic_driver: text.optional(),
    vcpus: number(1).optional(),
  })
  .refine((given) => given.ram !== undefined || given.max_physical_memory !== undefined, missing('ram'))
  .refine((given) => !isHardware(given.brand) || given.disks !== undefined, missing('disks'))
  .refine(
    (given) => !isHardware(given.brand) || given.disks?.[0]?.image_uuid !== undefined,
    missing('disks.0.image_uuid'),
  )
  .refine((given) => isHardware(given.brand) || given.image_uuid !== undefined, missing('image_uuid'));
export type CreateParams = z.output<typeof createSchema>;

export const updateFields = {
  ...mutableFields,
  customer_metadata: metadataSchema('customer_metadata', { creating: false }).optional(),
  internal_metadata: metadataSchema('internal_metadata', { creating: false }).optional(),
  tags: metadataSchema('tags', { creating: false }).optional(),
};
/** The names of the fields that an update writes as they are given. */
export const plainUpdateFields = Object.keys(mutableFields) as (keyof typeof mutableFields)[];

const macs = z
  .union([z.array(z.string()), z.string().transform((given) => given.split(','))], {
    error: (issue) => (issue.input === undefined ? undefined : 'Invalid MAC addresses object'),
  })
  .pipe(
    z
      .array(
        z
          .string()
          .regex(/^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/i, 'Invalid MAC address')
          .transform((mac) => mac.toLowerCase()),
      )
      .min(1),
  );

const powerFields = { ...callFields, idempotent: flag.optional(), timeout: number().optional() };
/** Signals after which a VM is stopped: those that end its first process. */
const killSignals = [
  'SIGKILL',
  'SIGTERM',
  'SIGINT',
  'SIGQUIT',
  'KILL',
  'TERM',
  'INT',
  'QUIT',
  '9',
  '15',
  '2',
  '3',
];
const killSignal = z
  .union([z.string(), z.number()])
  .transform(String)
  .pipe(z.string().refine((signal) => killSignals.includes(signal), 'Invalid parameter'));

/** POST /vms/:uuid?action=... */
export const actionSchema = z.discriminatedUnion('action', [
  z.strictObject({ ...powerFields, action: z.literal('start') }),
  z.strictObject({ ...powerFields, action: z.literal('stop') }),
  z.strictObject({ ...powerFields, action: z.literal('reboot') }),
  z.strictObject({ ...powerFields, action: z.literal('kill'), signal: killSignal.optional() }),
  z.strictObject({ ...callFields, ...updateFields, action: z.literal('update'), force: flag.optional() }),
  z
    .strictObject({
      ...callFields,
      action: z.literal('add_nics'),
      networks: networksSchema.optional(),
      macs: macs.optional(),
    })
    .superRefine((given, context) => {
      if ((given.networks === undefined) === (given.macs === undefined)) {
        context.addIssue({
          code: 'custom',
          path: ['networks'],
          message: 'Either networks or macs must be given',
        });
      }
    }),
  z.strictObject({ ...callFields, action: z.literal('remove_nics'), macs }),
]);
export type ActionParams = z.output<typeof actionSchema>;
