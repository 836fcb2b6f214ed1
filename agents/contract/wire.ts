import { z } from 'zod';

/**
 * The websocket `/servers/:uuid/agent` of CNAPI: an agent connects outwards to any instance and is told its desired
 * state: first all of it (`snapshot`), then every change in order, and the tasks that wait for it. The agent answers
 * `applied` with the last position that its kernel shows. Agents report facts through the REST APIs: sysinfo, task results (CNAPI), VM
 * states (VMAPI). Both sides ping; a side that hears nothing for 10 s closes the connection.
 *
 * Objects and a snapshot's tasks are passed on as they are stored, and the agent reads each by itself: one that is not
 * valid, or of a version that CNAPI does not know, must neither be taken for absent nor cost the message that it is in.
 */

export const taskSchema = z.object({
  id: z.string(),
  task: z.string(),
  server_uuid: z.string(),
  req_id: z.string(),
  params: z.record(z.string(), z.unknown()),
});

export const toAgentSchema = z.discriminatedUnion('type', [
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

export const fromAgentSchema = z.discriminatedUnion('type', [
  z.object({ type: z.literal('hello'), v: z.literal(1), server_uuid: z.string(), boot: z.string() }),
  z.object({
    type: z.literal('applied'),
    position: z.string(),
    failed: z.array(z.object({ key: z.string(), reason: z.string() })),
  }),
]);

export type Task = z.infer<typeof taskSchema>;
export type ToAgent = z.infer<typeof toAgentSchema>;
export type FromAgent = z.infer<typeof fromAgentSchema>;
