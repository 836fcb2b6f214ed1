import { z } from 'zod';

/** 1: a listener of one resource; 2: of several. */
export type TritonVersion = 1 | 2;

export interface Registration {
  readonly instance: string;
  readonly service: string;
  /** The sub resources subscribed to, by resource. */
  readonly wants: ReadonlyMap<string, ReadonlySet<string>>;
}

const kindSchema = z.object({ resource: z.string().min(1), subResources: z.array(z.string()) });
const who = { instance: z.string(), service: z.string().default('') };
const schemaV1 = z.object({ ...who, changeKind: kindSchema });
const schemaV2 = z.object({ ...who, resources: z.array(kindSchema).min(1) });

/** The version that an `accept-version` header asks for; without one, the first, as in Triton. */
export function versionOf(header: string | string[] | undefined): TritonVersion {
  const major = String(header ?? '').match(/\d+/);
  return major !== null && Number(major[0]) >= 2 ? 2 : 1;
}

/** @throws Error that says to the listener why it is refused */
export function parseRegistration(
  text: string,
  version: TritonVersion,
  known: ReadonlySet<string>,
): Registration {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw new Error(`failed to parse v${version} registration payload`);
  }
  const parsed =
    version === 1
      ? schemaV1
          .transform(({ changeKind, ...rest }) => ({ ...rest, resources: [changeKind] }))
          .safeParse(json)
      : schemaV2.safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw new Error(`invalid v${version} registration: ${issue?.path.join('.')}: ${issue?.message}`);
  }
  const { instance, service, resources } = parsed.data;
  const wants = new Map<string, Set<string>>();
  for (const { resource, subResources } of resources) {
    if (!known.has(resource)) throw new Error(`unknown resource: ${resource}`);
    const subs = wants.get(resource) ?? new Set();
    for (const sub of subResources) subs.add(sub);
    wants.set(resource, subs);
  }
  return { instance, service, wants };
}
