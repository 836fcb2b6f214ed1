import { kafkaAvailable } from '../fixtures/kafka.ts';
import { shortForm } from './short-form.ts';

shortForm('kafka', await kafkaAvailable());
