/** @jsxImportSource hono/jsx */
/**
 * What operators can do to a registered endpoint: each action is a form of its own, with what it does beside its button.
 */
import type { Child, FC } from "hono/jsx";
import type { MissedCounts } from "../missed/missed.ts";
import type { EndpointWithHealth } from "../registry/registry.ts";
import { formatEvents } from "./endpoint-path.ts";
import { Ago, userPath } from "./layout.tsx";

/** How long the present secrets sign after a rotation, seconds. */
export const GRACES = [
  [24 * 60 * 60, "1 day"],
  [7 * 24 * 60 * 60, "7 days"],
  [60 * 60, "1 hour"],
  [0, "not at all: it leaked"],
] as const;

export interface FormsProps {
  readonly userId: string;
  readonly endpoint: EndpointWithHealth;
  readonly missed: MissedCounts;
  /** Whether the board has a key to seal new secrets with. */
  readonly canRotate: boolean;
  /** Epoch ms. */
  readonly now: number;
}

/** The actions that the endpoint's state allows. */
export const EndpointForms: FC<FormsProps> = (props) => {
  const { endpoint } = props;
  const { state } = endpoint;
  return (
    <section class="panel endpoint-actions" id="actions">
      <h2>Actions</h2>
      <ul>
        {state.kind === "disabled" && <Enable {...props} />}
        {state.kind === "paused" && (
          <Row
            {...props}
            action="resume"
            text={
              <>
                Delivers its events again. The pause does not count for their age. What waits is listed on{" "}
                <a href={userPath(props.userId)}>the user's page</a>.
              </>
            }
          >
            <button id="resume" type="submit" class="strong">
              Resume
            </button>
          </Row>
        )}
        {state.kind === "enabled" && !endpoint.isDamaged && (
          <Row
            {...props}
            action="test"
            text="Sends one test event, signed like any other, without retries. It does not count for the endpoint's health."
          >
            <button id="test-event" type="submit">
              Send test event
            </button>
          </Row>
        )}
        {state.kind === "enabled" && (
          <Row
            {...props}
            action="pause"
            text="Lets its events wait until it is resumed, without using attempts or aging."
          >
            <button id="pause" type="submit">
              Pause
            </button>
          </Row>
        )}
        {state.kind !== "disabled" && (
          <Row
            {...props}
            action="disable"
            text="Ends all attempts. Its events are kept as missed, up to a limit, and can be replayed."
          >
            <button id="disable" type="submit">
              Disable
            </button>
          </Row>
        )}
        {!endpoint.isDamaged && <Rotate {...props} />}
      </ul>
    </section>
  );
};

interface RowProps {
  readonly userId: string;
  readonly endpoint: Pick<EndpointWithHealth, "id">;
  readonly action: string;
  readonly text: Child;
  readonly children?: Child;
}

const Row: FC<RowProps> = ({ userId, endpoint, action, text, children }) => (
  <li id={`action-${action}`}>
    <p class="action-text">{text}</p>
    <form method="post" action={`/actions/endpoint-${action}`}>
      <input type="hidden" name="user" value={userId} />
      <input type="hidden" name="endpoint" value={endpoint.id} />
      {children}
    </form>
  </li>
);

/** Enabling asks whether to replay, if there is anything to. */
const Enable: FC<FormsProps> = (props) => {
  const { missed, now } = props;
  if (missed.kept === 0) {
    return (
      <Row {...props} action="enable" text="Delivers its events again. It missed none that could be replayed.">
        <button id="enable" type="submit" class="strong">
          Enable
        </button>
      </Row>
    );
  }
  return (
    <Row
      {...props}
      action="enable"
      text={
        <>
          Delivers its events again. It missed {formatEvents(missed.kept)}
          {missed.oldest !== undefined && (
            <>
              , the oldest <Ago at={missed.oldest} now={now} />
            </>
          )}
          . Deliver those, too, or keep them for later?
        </>
      }
    >
      <button id="enable-replay" type="submit" name="replay" value="all" class="strong">
        Enable and replay {missed.kept.toLocaleString("en-US")}
      </button>
      <button id="enable" type="submit" name="replay" value="none">
        Enable only
      </button>
    </Row>
  );
};

const Rotate: FC<FormsProps> = (props) => {
  const { endpoint, canRotate } = props;
  if (!canRotate) {
    return (
      <li id="action-rotate">
        <p class="action-text">
          The secret cannot be rotated here: this board has no key to seal a new one with. The backend rotates it, or{" "}
          <code>fluxhook endpoints rotate</code>; the board does if it has <code>WEBHOOK_SECRET_KEYS</code>, which also
          opens all other secrets.
        </p>
      </li>
    );
  }
  return (
    <Row
      {...props}
      action="rotate"
      text="Makes a new secret and shows it once. The present one goes on signing beside it for a while, so that the receiver can change over."
    >
      <input type="hidden" name="version" value={endpoint.version} />
      <label for="grace">Present secret signs</label>
      <select id="grace" name="grace">
        {GRACES.map(([seconds, label]) => (
          <option value={String(seconds)}>{label}</option>
        ))}
      </select>
      <button id="rotate" type="submit">
        Rotate secret
      </button>
    </Row>
  );
};
