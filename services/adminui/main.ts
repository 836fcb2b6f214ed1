import { runService } from '../common/service.ts';
import { setupAdminui } from './setup.ts';

runService('adminui', (context) => setupAdminui(context));
