import type { FastifyReply, FastifyRequest } from 'fastify';
import { CongerError } from '../../../runtime/errors.ts';

/** Answers the etag of what is sent, for a later If-Match. */
export function sendEtag(reply: FastifyReply, etag: string): void {
  void reply.header('etag', etag);
}

/** @throws PreconditionFailed (412) where the request's If-Match names another etag */
export function checkIfMatch(request: FastifyRequest, etag: string): void {
  const wanted = request.headers['if-match'];
  if (wanted === undefined || wanted === '*') return;
  const names = wanted.split(',').map((part) => part.trim().replace(/^"|"$/g, ''));
  if (!names.includes(etag)) {
    throw new CongerError('PreconditionFailed', `if-match '${wanted}' didn't match etag '${etag}'`);
  }
}
