// @xmpp/client against a running server: WebSocket over TLS with certificate checking, SCRAM, chat,
// the archive, and the resumption of a session whose connection was lost; then guests (ANONYMOUS).
//
// Prints one line for each check; ends with a non-zero code at the first that fails. The authority
// to trust is in NODE_EXTRA_CA_CERTS.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { parseArgs } from "node:util";

import { client, jid, xml } from "@xmpp/client";
import { WebSocket } from "ws";

globalThis.WebSocket = WebSocket;

const LIMIT = 30_000;
const names = ["service", "jid", "password", "peer", "peer-password", "guests"];
const { values: options } = parseArgs({
  options: {
    ...Object.fromEntries(names.map((name) => [name, { type: "string" }])),
    untrusted: { type: "boolean" },
  },
});

const passed = (text) => console.log(`@xmpp/client: ok: ${text}`);

function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited too long for ${what}`)), LIMIT);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// Without a user name it logs in as a guest.
function make(address, password) {
  const { local, domain } = jid(address);
  const who = local ? { username: local, password } : {};
  const xmpp = client({ service: options.service, domain, ...who });
  xmpp.reconnect.delay = 100;
  const bodies = [];
  const waiting = [];
  xmpp.on("error", () => {});
  xmpp.on("stanza", (stanza) => {
    const body = stanza.is("message") && stanza.getChildText("body");
    if (!body) return;
    const next = waiting.shift();
    if (next) next(body);
    else bodies.push(body);
  });
  const nextBody = () =>
    within(
      bodies.length > 0
        ? Promise.resolve(bodies.shift())
        : new Promise((resolve) => waiting.push(resolve)),
      "a message",
    );
  return { xmpp, bodies, nextBody };
}

const chat = (to, text) => xml("message", { type: "chat", to }, xml("body", {}, text));

if (options.untrusted) {
  // A process of its own, because the trusted authorities are read once, at the start.
  const { xmpp } = make(options.jid, options.password);
  xmpp.reconnect.stop();
  const error = await within(
    xmpp.start().then(
      () => null,
      (error) => error,
    ),
    "the refusal",
  );
  assert.ok(error, "connected in spite of a certificate that is not trusted");
  process.exit(0);
}

const bare = { ...process.env };
delete bare.NODE_EXTRA_CA_CERTS;
execFileSync(process.execPath, [...process.argv.slice(1), "--untrusted"], {
  env: bare,
  stdio: "inherit",
});
passed("a certificate that is not trusted is refused");

const one = make(options.jid, options.password);
const two = make(options.peer, options["peer-password"]);
for (const { xmpp } of [one, two]) {
  await within(xmpp.start(), "the login");
  await xmpp.send(xml("presence"));
}
const [oneJid, twoJid] = [one.xmpp.jid, two.xmpp.jid];
passed(`logged in as ${oneJid} and ${twoJid} with certificate checking`);

const run = randomBytes(4).toString("hex");
const texts = [0, 1, 2, 3, 4].map((i) => `${run} ${i}`);
for (const text of texts) await one.xmpp.send(chat(twoJid.bare().toString(), text));
for (const text of texts) assert.equal(await two.nextBody(), text);
passed("five messages arrived in order");

for (const [{ xmpp }, peer] of [
  [one, twoJid],
  [two, oneJid],
]) {
  const found = [];
  const collect = (stanza) => {
    const result = stanza.getChild("result", "urn:xmpp:mam:2");
    const message = result?.getChild("forwarded", "urn:xmpp:forward:0")?.getChild("message");
    const body = message?.getChildText("body");
    if (body?.startsWith(run)) found.push(body);
  };
  xmpp.on("stanza", collect);
  const field = (name, value, type) =>
    xml("field", type ? { var: name, type } : { var: name }, xml("value", {}, value));
  await within(
    xmpp.iqCaller.request(
      xml(
        "iq",
        { type: "set" },
        xml(
          "query",
          { xmlns: "urn:xmpp:mam:2" },
          xml(
            "x",
            { xmlns: "jabber:x:data", type: "submit" },
            field("FORM_TYPE", "urn:xmpp:mam:2", "hidden"),
            field("with", peer.bare().toString()),
          ),
        ),
      ),
      LIMIT,
    ),
    "the archive",
  );
  xmpp.removeListener("stanza", collect);
  assert.deepEqual(found, texts);
}
passed("both archives hold them once, in that order");

const sm = two.xmpp.streamManagement;
assert.ok(sm.enabled && sm.id, "the server did not enable stream management with resumption");
const resumed = new Promise((resolve) => sm.once("resumed", resolve));
const gone = new Promise((resolve) => two.xmpp.once("disconnect", resolve));
two.xmpp.socket.socket.terminate();
await within(gone, "the loss of the connection");
const away = [0, 1, 2].map((i) => `${run} away ${i}`);
for (const text of away) await one.xmpp.send(chat(twoJid.toString(), text));
await within(resumed, "the resumption");
for (const text of away) assert.equal(await two.nextBody(), text);
await two.xmpp.send(chat(oneJid.bare().toString(), `${run} back`));
assert.equal(await one.nextBody(), `${run} back`);
assert.deepEqual(two.bodies, [], "delivered twice");
passed("a session whose connection was lost resumed and got its missed messages once");

for (const { xmpp } of [one, two]) {
  xmpp.reconnect.stop();
  await within(xmpp.stop(), "the end");
}

const guests = [make(options.guests), make(options.guests)];
for (const { xmpp } of guests) await within(xmpp.start(), "a guest's login");
const [ann, ben] = guests;
await ann.xmpp.send(chat(ben.xmpp.jid.toString(), `${run} guest`));
assert.equal(await ben.nextBody(), `${run} guest`);
for (const { xmpp } of guests) {
  xmpp.reconnect.stop();
  await within(xmpp.stop(), "the end");
}
passed("two guests logged in without an account and talked");
process.exit(0);
