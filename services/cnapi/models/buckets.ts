import { type BucketDefinition, serversBucket } from '../../common/records.ts';

export { serversBucket };

/** Agent tasks; key = id. Ordered by server. */
export const tasksBucket: BucketDefinition = {
  name: 'cnapi_tasks',
  config: {
    index: {
      id: { type: 'string' },
      req_id: { type: 'string' },
      server_uuid: { type: 'string' },
      status: { type: 'string' },
      timestamp: { type: 'string' },
    },
    options: { version: 1, partition: 'server_uuid' },
  },
};

/** Whether a server is heard of, and by which instance; key = server uuid. Written when it changes, never per heartbeat. */
export const statusBucket: BucketDefinition = {
  name: 'cnapi_status',
  config: {
    index: {
      server_uuid: { type: 'string', unique: true },
      last_heartbeat: { type: 'string' },
      status: { type: 'string' },
    },
    options: { version: 1, partition: 'server_uuid' },
  },
};
