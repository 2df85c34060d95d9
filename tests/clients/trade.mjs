// The nktkas client against a venue: all it asks, does and listens to.  Prints one JSON report.
//
//   node trade.mjs URL KEY OTHER_KEY     it prints "hour", waits for a line while the venue's hour passes, then goes on
import { createInterface } from "node:readline/promises";
import { ExchangeClient, HttpTransport, InfoClient, SubscriptionClient, WebSocketTransport } from "@nktkas/hyperliquid";
import { SymbolConverter } from "@nktkas/hyperliquid/utils";
import { addr, signTyped } from "micro-eth-signer";
import { faults } from "./shapes.mjs";

const [url, key, otherKey] = process.argv.slice(2);
const wallet = signer(key), otherWallet = signer(otherKey);
const user = wallet.address.toLowerCase(), other = otherWallet.address.toLowerCase();
const http = new HttpTransport({ apiUrl: url, isTestnet: true });
const socket = new WebSocketTransport({ url: `${url.replace("http", "ws")}/ws`, isTestnet: true });
const exchange = new ExchangeClient({ transport: http, wallet });
const info = new InfoClient({ transport: http });
const streams = new SubscriptionClient({ transport: socket });

const steps = {}; // label: {value} or {error}
const samples = []; // for shapes.mjs

/** A local account in the form the client takes. */
function signer(privateKey) {
  return { address: addr.fromPrivateKey(privateKey), signTypedData: async (typed) => signTyped(typed, privateKey) };
}

function typeName(method, suffix) {
  return method[0].toUpperCase() + method.slice(1) + suffix;
}

/** Does one thing, keeps what came of it. */
async function step(label, act, module, type) {
  try {
    const value = await act();
    steps[label] = { value: value ?? null };
    if (module) samples.push({ label, module, type, value });
    return value;
  } catch (error) {
    steps[label] = { error: String(error?.message ?? error) };
    return undefined;
  }
}

const ask = (method, params, client = info, where = "info") =>
  step(`${where}.${method}`, () => (params === undefined ? client[method]() : client[method](params)), "info", typeName(method, "Response"));
const act = (label, method, params, options, client = exchange) =>
  step(label, () => (params === undefined ? client[method](options) : client[method](params, options)), "exchange", typeName(method, "Response"));

const limit = (price, more = {}) => ({ a: 1, b: true, p: price, s: "0.1", r: false, t: { limit: { tif: "Gtc" } }, ...more });
const trigger = (price, tpsl) => ({ a: 1, b: false, p: price, s: "0.1", r: true, t: { trigger: { isMarket: true, triggerPx: price, tpsl } } });
const place = (label, orders, more = {}, options = undefined, client = exchange) =>
  act(label, "order", { orders, grouping: "na", ...more }, options, client);
const restingOid = (answer) => answer?.response.data.statuses[0].resting?.oid ?? 0;

async function listen() {
  const heard = {};
  const subscribe = (method, params) => {
    heard[method] = [];
    const note = (data) => {
      if (heard[method].length < 40) heard[method].push(data);
    };
    return step(`stream.${method}`, async () => {
      await (params === undefined ? streams[method](note) : streams[method](params, note));
    });
  };
  const coin = "ETH";
  for (const method of ["allMids", "assetCtxs", "allDexsAssetCtxs", "spotAssetCtxs"]) await subscribe(method);
  for (const method of ["l2Book", "bbo", "trades", "activeAssetCtx"]) await subscribe(method, { coin });
  await subscribe("candle", { coin, interval: "1m" });
  await subscribe("activeAssetData", { coin, user });
  for (
    const method of [
      "allDexsClearinghouseState", "clearinghouseState", "notification", "openOrders", "orderUpdates", "spotState",
      "twapStates", "userEvents", "userFills", "userFundings", "userHistoricalOrders", "userNonFundingLedgerUpdates",
      "userTwapHistory", "userTwapSliceFills", "webData2", "webData3",
    ]
  ) await subscribe(method, { user });
  return heard;
}

async function trade() {
  await place("market order", [limit("120000", { a: 0, s: "1", t: { limit: { tif: "FrontendMarket" } } })]);
  await place("market order for ETH", [limit("2100", { s: "2", t: { limit: { tif: "Ioc" } } })]);
  const cloid = "0xABCDEF0123456789abcdef0123456789";
  const rests = await place("order", [limit("1800", { c: cloid }), limit("1801")]);
  await act("cancel", "cancel", { cancels: [{ a: 1, o: rests?.response.data.statuses[1].resting?.oid ?? 0 }] });
  await ask("orderStatus", { user, oid: cloid });
  await act("modify", "modify", { oid: restingOid(rests), order: limit("1805", { c: cloid }) });
  await act("batchModify", "batchModify", { modifies: [{ oid: cloid, order: limit("1806.0", { c: cloid }) }] });
  await act("cancelByCloid", "cancelByCloid", { cancels: [{ asset: 1, cloid }] });
  await act("cancel of nothing", "cancel", { cancels: [{ a: 1, o: 12345 }] });
  await place("too small", [limit("1800", { s: "0.001" })]);
  await place("expires later", [limit("1700")], {}, { expiresAfter: Date.now() + 60_000 });
  await place("bracket", [limit("1750"), trigger("2200", "tp"), trigger("1700", "sl")], { grouping: "normalTpsl" });
  await place("stop", [trigger("1500", "sl")]);
  const mainnet = new ExchangeClient({ transport: new HttpTransport({ apiUrl: url }), wallet });
  await place("signed for mainnet", [limit("1600")], {}, undefined, mainnet);
  const byWebsocket = new ExchangeClient({ transport: socket, wallet });
  const posted = await place("order by websocket", [limit("1610")], {}, undefined, byWebsocket);
  await act("cancel by websocket", "cancel", { cancels: [{ a: 1, o: restingOid(posted) }] }, undefined, byWebsocket);
  await act("refusal by websocket", "cancel", { cancels: [{ a: 1, o: 1 }] }, undefined, byWebsocket);
  await act("updateLeverage", "updateLeverage", { asset: 2, isCross: false, leverage: 5 });
  await place("isolated", [limit("200", { a: 2, s: "10", t: { limit: { tif: "Ioc" } } })]);
  await act("updateIsolatedMargin", "updateIsolatedMargin", { asset: 2, isBuy: true, ntli: 5_000_000 });
  await act("scheduleCancel", "scheduleCancel", { time: Date.now() + 3_600_000 });
  await act("scheduleCancel unset", "scheduleCancel", undefined);
  await act("noop", "noop", undefined);
  await act("reserveRequestWeight", "reserveRequestWeight", { weight: 10 });
}

async function manage() {
  const agent = signer(`0x${"77".repeat(32)}`);
  await act("approveAgent", "approveAgent", { agentAddress: agent.address, agentName: "node" });
  await act("approveAgent unnamed", "approveAgent", { agentAddress: signer(`0x${"78".repeat(32)}`).address });
  await place("order by agent", [limit("1620")], {}, undefined, new ExchangeClient({ transport: http, wallet: agent }));
  await act("approveBuilderFee", "approveBuilderFee", { maxFeeRate: "0.01%", builder: other });
  await place("order with builder", [limit("2100", { t: { limit: { tif: "Ioc" } } })], { builder: { b: other, f: 10 } });
  await act("usdSend", "usdSend", { destination: other, amount: "5" });
  await act("usdClassTransfer", "usdClassTransfer", { amount: "20", toPerp: false });
  await act("sendAsset", "sendAsset", { destination: other, sourceDex: "", destinationDex: "", token: "USDC:0x6d1e7cde53ba9467b783cb7c530ce054", amount: "2" });
  await act("spotSend", "spotSend", { destination: other, token: "USDC:0x6d1e7cde53ba9467b783cb7c530ce054", amount: "1" });
  await act("withdraw3", "withdraw3", { destination: user, amount: "3" });
  const opened = await act("createSubAccount", "createSubAccount", { name: "node" });
  const sub = opened?.response.data ?? user;
  await act("subAccountTransfer", "subAccountTransfer", { subAccountUser: sub, isDeposit: true, usd: 1_000_000_000 });
  await act("subAccountModify", "subAccountModify", { subAccountUser: sub, name: "node2" });
  await place("order for sub-account", [limit("1630")], {}, { vaultAddress: sub });
  const vault = await act("createVault", "createVault", { name: "harbour", description: "a vault of the node client", initialUsd: 100_000_000, nonce: Date.now() });
  const vaultAddress = vault?.response.data ?? user;
  await act("vaultTransfer", "vaultTransfer", { vaultAddress, isDeposit: true, usd: 10_000_000 });
  await act("registerReferrer", "registerReferrer", { code: "NODE" });
  await act("setReferrer", "setReferrer", { code: "NOSUCH" });
  await act("setDisplayName", "setDisplayName", { displayName: "node" });
  await act("evmUserModify", "evmUserModify", { usingBigBlocks: true });
  const twap = await act("twapOrder", "twapOrder", { twap: { a: 1, b: true, s: "2", r: false, m: 5, t: false } });
  await act("twapOrder short", "twapOrder", { twap: { a: 1, b: false, s: "2", r: false, m: 5, t: true } });
  await act("twapCancel", "twapCancel", { a: 1, t: twap?.response.data.status.running?.twapId ?? 0 });
  await act("userDexAbstraction", "userDexAbstraction", { user, enabled: true });
  return { sub, vaultAddress };
}

async function questions({ vaultAddress }) {
  const coin = "ETH", endTime = Date.now() + 86_400_000;
  for (
    const method of [
      "allMids", "allPerpMetas", "exchangeStatus", "liquidatable", "maxMarketOrderNtls", "meta", "metaAndAssetCtxs",
      "outcomeMeta", "perpAnnotation", "perpCategories", "perpConciseAnnotations", "perpDeployAuctionStatus", "perpDexs",
      "perpsAtOpenInterestCap", "predictedFundings", "spotMeta", "spotMetaAndAssetCtxs",
    ]
  ) await ask(method, method === "perpAnnotation" ? { coin } : undefined);
  for (
    const method of [
      "approvedBuilders", "clearinghouseState", "delegations", "delegatorHistory", "delegatorRewards", "delegatorSummary",
      "extraAgents", "frontendOpenOrders", "historicalOrders", "isVip", "leadingVaults", "legalCheck", "openOrders",
      "portfolio", "referral", "spotClearinghouseState", "subAccounts", "subAccounts2", "twapHistory", "userAbstraction",
      "userDexAbstraction", "userFees", "userFills", "userFunding", "userNonFundingLedgerUpdates", "userRateLimit",
      "userRole", "userToMultiSigSigners", "userTwapSliceFills", "userVaultEquities", "webData2",
    ]
  ) await ask(method, { user });
  await ask("activeAssetData", { user, coin });
  await ask("l2Book", { coin });
  await ask("recentTrades", { coin });
  await ask("candleSnapshot", { coin, interval: "1m", startTime: 0, endTime });
  await ask("fundingHistory", { coin, startTime: 0 });
  await ask("marginTable", { id: 55 });
  await ask("maxBuilderFee", { user, builder: other });
  await ask("perpDexLimits", { dex: "test" });
  await ask("perpDexStatus", { dex: "test" });
  await ask("preTransferCheck", { user: other, source: user });
  await ask("userFillsByTime", { user, startTime: 0, endTime });
  await ask("userTwapSliceFillsByTime", { user, startTime: 0, endTime });
  await ask("vaultDetails", { vaultAddress });
  await ask("vaultSummaries");
  await ask("l2Book", { coin, nSigFigs: 5, mantissa: 2 }, new InfoClient({ transport: socket }), "post");
  await ask("clearinghouseState", { user }, new InfoClient({ transport: socket }), "post");
  await step("symbol of builder", async () => {
    const symbols = await SymbolConverter.create({ transport: http, dexs: true });
    return symbols.getAssetId("test:ABC");
  });
}

async function main() {
  const heard = await listen();
  await trade();
  const made = await manage();
  console.log("hour");
  const lines = createInterface({ input: process.stdin });
  await lines.question("");
  lines.close();
  await questions(made);
  for (const [method, events] of Object.entries(heard)) {
    steps[`heard.${method}`] = { value: events.length };
    events.forEach((value, at) => samples.push({ label: `heard.${method} ${at}`, module: "subscription", type: typeName(method, "Event"), value }));
  }
  await socket.close();
  return { steps, faults: faults(samples) };
}

const report = await main();
process.stdout.write(`${JSON.stringify(report)}\n`, () => process.exit(0)); // sockets and timers would keep it alive
