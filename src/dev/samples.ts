/**
 * The demo's events: one of each type, as Flux Drop's backend would send it.
 */
import type { EventType, JobData } from "../delivery/contract.ts";

/** The user of the demo's events. */
export const DEMO_USER = "usr_demo";

/** The secret of the demo's receiver. Public, so never use it elsewhere. */
export const DEMO_SECRET = "whsec_Zmx1eGhvb2stZGVtby1zZWNyZXQh";

const REPORT = { id: "fil_8XkQ2m", name: "Q3 report.pdf", size_bytes: 2_481_152, content_type: "application/pdf" };
const ORG = { id: "org_77", name: "Nordlicht Studio" };
const MIRA = { id: "usr_108", email: "mira@nordlicht.example" };

/** Sample data for each event type. */
export const SAMPLES: Readonly<Record<EventType, object>> = {
  "file.created": { file: REPORT, folder: "/Reports/2026", uploaded_by: DEMO_USER },
  "file.deleted": { file: { id: "fil_3ZpL9c", name: "draft (old).docx" }, deleted_by: MIRA.id, permanent: false },
  "file.downloaded": { file: REPORT, share: "shr_5hGt", ip: "203.0.113.24", country: "NO" },
  "share.linked": {
    share: { id: "shr_5hGt", file: REPORT.id, expires_at: "2026-12-31T23:00:00.000Z", password: true },
  },
  "share.deleted": { share: { id: "shr_1aBc", file: "fil_3ZpL9c" }, reason: "expired" },
  "org.userAdded": { org: ORG, user: MIRA, role: "editor", invited_by: DEMO_USER },
  "org.userRemoved": { org: ORG, user: { id: "usr_91", email: "ole@nordlicht.example" }, removed_by: DEMO_USER },
  "org.updated": { org: ORG, changes: { name: { from: "Nordlicht", to: ORG.name } } },
  "org.permissionChanged": { org: ORG, user: MIRA.id, from: "editor", to: "admin" },
  "storage.exceeded": { org: ORG.id, used_bytes: 1_101_659_111_424, quota_bytes: 1_099_511_627_776 }, // 1 TiB
};

/** A sample job's data, signed with {@link DEMO_SECRET}. */
export function buildSample(type: EventType, url: string): JobData {
  return { userId: DEMO_USER, endpoint: { url, secret: DEMO_SECRET }, data: SAMPLES[type] };
}
