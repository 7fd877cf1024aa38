/** @jsxImportSource hono/jsx */
/**
 * Copy buttons. Without JavaScript they are hidden: `live.js` marks the document as one with a script, and copies on a click.
 */
import type { Child, FC } from "hono/jsx";

/** What a button copies: a text, or the text of the element with this id. */
export type CopyButtonProps = { readonly what: string } & ({ readonly text: string } | { readonly from: string });

/** A button that copies to the clipboard. `what` completes "Copy …". */
const CopyButton: FC<CopyButtonProps> = (props) => (
  <button
    type="button"
    class="copy"
    title={`Copy ${props.what}`}
    data-copy={"text" in props ? props.text : undefined}
    data-copy-from={"from" in props ? props.from : undefined}
  >
    <svg viewBox="0 0 16 16" width="14" height="14" aria-hidden="true">
      <path class="sheets" d="M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3" />
      <path class="check" d="M3.5 8.5 6.7 11.7 12.5 4.8" />
    </svg>
    <span class="unseen">Copy {props.what}</span>
  </button>
);

/** An identifier that can be copied. */
export const Copyable: FC<{ what: string; text: string; children: Child }> = ({ what, text, children }) => (
  <span class="copyable">
    {children}
    <CopyButton what={what} text={text} />
  </span>
);

/** Text in a box of its own that can be copied, for what is longer than a line. */
export const CodeBlock: FC<{ id: string; what: string; text: string }> = ({ id, what, text }) => (
  <div class="code-block">
    <pre id={id} tabindex={0}>
      {text}
    </pre>
    <CopyButton what={what} from={id} />
  </div>
);
