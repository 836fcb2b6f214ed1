import { isIPv4 } from 'node:net';
import { z } from 'zod';

const uuidPattern = /^[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}$/;

/** One NIC that is asked for: a network by its UUID or its name, and an address where a certain one is wanted. */
export interface WantedNetwork {
  readonly ipv4_uuid?: string;
  readonly name?: string;
  readonly ipv4_ips?: readonly string[];
  readonly primary: boolean;
}

const flag = z
  .union([z.boolean(), z.enum(['true', 'false'])])
  .transform((given) => given === true || given === 'true');

const objectSchema = z.looseObject({
  uuid: z.string().optional(),
  ip: z.string().optional(),
  ipv4_uuid: z.string().optional(),
  ipv4_count: z.unknown().optional(),
  ipv4_ips: z.unknown().optional(),
  name: z.string().optional(),
  primary: flag.optional(),
});

/**
 * Triton's `networks` parameter in all its forms: UUIDs (an array or comma-separated), `{uuid, ip?, primary?}`,
 * `{ipv4_uuid, ipv4_count | ipv4_ips, primary?}`, `{name, ...}`.
 */
export const networksSchema = z
  .union([z.array(z.union([z.string(), objectSchema])), z.string().transform((text) => text.split(','))], {
    error: (issue) => (issue.input === undefined ? undefined : 'Malformed networks object'),
  })
  .transform((given, context) => {
    const wanted: WantedNetwork[] = [];
    const refuse = (message: string) => {
      context.addIssue({ code: 'custom', message, input: given });
      return z.NEVER;
    };
    if (given.length === 0) return refuse('Must have at least one network');
    for (const entry of given) {
      const network = wantedOf(entry);
      if (typeof network === 'string') return refuse(network);
      wanted.push(network);
    }
    if (wanted.filter((network) => network.primary).length > 1) {
      return refuse('Cannot specify more than one primary network');
    }
    return wanted;
  });

/** What one entry asks for, or why it cannot be had. */
function wantedOf(entry: string | z.output<typeof objectSchema>): WantedNetwork | string {
  const given = typeof entry === 'string' ? objectSchema.parse({ uuid: entry }) : entry;
  if (given.uuid !== undefined && given.ipv4_uuid !== undefined) {
    return 'Network object uses both old uuid form and new ipvX_uuid form';
  }
  if (['ipv6_uuid', 'ipv6_count', 'ipv6_ips'].some((field) => field in given)) {
    return 'IPv6 options are not currently supported';
  }
  const ips = given.ip === undefined ? given.ipv4_ips : [given.ip];
  if (given.ipv4_count !== undefined) {
    if (ips !== undefined) return 'cannot specify both an IP count and specific IPs';
    if (given.ipv4_count !== 1) return 'ipv4_count must be set to one';
  }
  if (ips !== undefined && (!Array.isArray(ips) || ips.length !== 1)) {
    return 'ipv4_ips must be an array with a single entry';
  }
  if (Array.isArray(ips) && !ips.every((ip) => typeof ip === 'string' && isIPv4(ip))) {
    return 'ipv4_ips contains invalid IPv4 addresses';
  }
  const uuid = given.uuid ?? given.ipv4_uuid;
  if (uuid === undefined && given.name === undefined) return 'Network object must specify a UUID or a name';
  if (uuid !== undefined && !uuidPattern.test(uuid)) return `Invalid uuid ${uuid}`;
  return {
    ...(uuid === undefined ? {} : { ipv4_uuid: uuid }),
    ...(given.name === undefined ? {} : { name: given.name }),
    ...(ips === undefined ? {} : { ipv4_ips: ips as string[] }),
    primary: given.primary ?? false,
  };
}
