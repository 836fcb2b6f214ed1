import { CongerError, type FieldError } from '../../../runtime/errors.ts';
import { validationError, validationStyles } from '../../common/http.ts';

/** NAPI's errors, in Triton's words. */

export function invalidField(field: string, message: string, invalid?: readonly unknown[]): FieldError {
  return { field, code: 'InvalidParameter', message, ...(invalid === undefined ? {} : { invalid }) };
}

export function missingField(field: string, message = 'Missing parameter'): FieldError {
  return { field, code: 'MissingParameter', message };
}

export function duplicateField(field: string, message = 'Already exists'): FieldError {
  return { field, code: 'Duplicate', message };
}

interface User {
  readonly type: string;
  readonly id: string;
}

/** Who uses something: {type, id, code, message}. */
function usedBy({ type, id }: User, message = `In use by ${type} "${id}"`): User & Omit<FieldError, 'field'> {
  return { type, id, code: 'UsedBy', message };
}

/** A parameter that others use already. */
export function usedField(field: string, user: User, message?: string): FieldError {
  return { ...usedBy(user, message), field };
}

/** InvalidParameters (422), */
export function refused(...errors: readonly FieldError[]): CongerError {
  return validationError(validationStyles.napi, errors);
}

/** The same, with a message of its own. */
export function refusedAs(message: string, ...errors: readonly FieldError[]): CongerError {
  return new CongerError('InvalidParameters', message, { errors });
}

export function notFound(message: string): CongerError {
  return new CongerError('ResourceNotFound', message);
}

/** What is to go is used by others. */
export function inUse(message: string, users: readonly User[]): CongerError {
  const errors = users.map((user) => usedBy(user)).sort((a, b) => (a.id < b.id ? -1 : 1));
  return new CongerError('InUse', message, { context: { errors } });
}

export function subnetFull(networkUuid: string): CongerError {
  return new CongerError('SubnetFull', 'no more free IPs', { context: { network_uuid: networkUuid } });
}

export function vlanUsed(): CongerError {
  const message = 'VLAN ID is already in use';
  return new CongerError('InUse', message, { errors: [duplicateField('vlan_id', message)] });
}
