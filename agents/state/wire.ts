import { z } from 'zod';
import { taskSchema } from '../contract/wire.ts';

/**
 * The contract's messages with their objects unread: one object that is not valid must not cost the message that it
 * came in. Each object is then read by itself (read.ts).
 */
export const messageSchema = z.discriminatedUnion('type', [
  z.object({
    type: z.literal('snapshot'),
    v: z.literal(1),
    position: z.string(),
    objects: z.array(z.unknown()),
    tasks: z.array(z.unknown()),
  }),
  z.object({
    type: z.literal('put'),
    position: z.string(),
    requestId: z.string().nullable(),
    object: z.unknown(),
  }),
  z.object({
    type: z.literal('delete'),
    position: z.string(),
    requestId: z.string().nullable(),
    key: z.string(),
  }),
  z.object({ type: z.literal('task'), position: z.string(), task: taskSchema }),
]);

export type Message = z.infer<typeof messageSchema>;
