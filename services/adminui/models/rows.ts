import { z } from 'zod';

/** What the page shows of each service's objects: nothing else leaves adminui, above all no metadata. */

export const nodeRow = z.object({
  uuid: z.string(),
  hostname: z.string(),
  status: z.string(),
});

export const vmRow = z.object({
  uuid: z.string(),
  alias: z.string().nullable(),
  state: z.string(),
  server_uuid: z.string().nullable(),
  firewall_enabled: z.boolean().nullable(),
  tags: z.record(z.string(), z.unknown()),
  nics: z
    .array(z.object({ ip: z.string().optional() }))
    .nullable()
    .transform((nics) => nics ?? []),
});
export const vmFields = Object.keys(vmRow.shape).join();

export const networkRow = z.object({
  uuid: z.string(),
  name: z.string(),
  subnet: z.string().optional(),
  vlan_id: z.number().optional(),
  vnet_id: z.number().optional(),
});

export const ruleRow = z.object({
  uuid: z.string(),
  rule: z.string(),
  enabled: z.boolean(),
  owner_uuid: z.string().optional(),
});
