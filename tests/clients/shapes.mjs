// Whether answers have the shape that a client's own TypeScript declarations promise, patterns in their comments included.
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const HERE = dirname(fileURLToPath(import.meta.url));
const ROOT = join(HERE, "shapes.d.ts"); // exists in the compiler's eyes only
const MODULES = ["exchange", "info", "subscription"];

/** Faults by label; `samples` is a list of {label, module, type, value}. */
export function faults(samples) {
  const fields = samples.map(({ module, type }, at) => `  "${at}": ${module}.${type};`);
  const imports = MODULES.map((name) => `import type * as ${name} from "@nktkas/hyperliquid/api/${name}";`);
  const { checker, declared } = compile([...imports, "export interface Samples {", ...fields, "}"].join("\n"));
  const found = {};
  samples.forEach(({ label, value }, at) => {
    const type = checker.getTypeOfSymbol(declared.getProperty(String(at)));
    const unknown = type.intrinsicName === "error";
    const faults = unknown ? ["the client declares no such type"] : check(checker, type, value, "", null);
    if (faults.length > 0) found[label] = faults;
  });
  return found;
}

function compile(source) {
  const options = {
    strict: true,
    noEmit: true,
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    types: [],
  };
  const host = ts.createCompilerHost(options);
  const { fileExists, readFile } = host;
  host.fileExists = (path) => path === ROOT || fileExists(path);
  host.readFile = (path) => (path === ROOT ? source : readFile(path));
  host.getSourceFile = (path, languageVersion) =>
    ts.createSourceFile(path, path === ROOT ? source : readFileSync(path, "utf8"), languageVersion);
  const program = ts.createProgram([ROOT], options, host);
  const checker = program.getTypeChecker();
  const [samples] = checker.getExportsOfModule(checker.getSymbolAtLocation(program.getSourceFile(ROOT)));
  return { checker, declared: checker.getDeclaredTypeOfSymbol(samples) };
}

function check(checker, type, value, path, pattern) {
  const wrong = (wanted) => [`${path || "answer"}: ${shown(value)} where ${wanted} is declared`];
  const plain = (is) => (is ? [] : wrong(checker.typeToString(type)));
  const { flags } = type;
  if (flags & (ts.TypeFlags.Any | ts.TypeFlags.Unknown)) return [];
  if (type.isUnion()) {
    const nothing = ts.TypeFlags.Null | ts.TypeFlags.Undefined;
    const members = type.types.filter((member) => value === null || !(member.flags & nothing));
    const tried = members.map((member) => check(checker, member, value, path, pattern));
    return tried.reduce((best, faults) => (faults.length < best.length ? faults : best));
  }
  if (flags & (ts.TypeFlags.Null | ts.TypeFlags.Undefined | ts.TypeFlags.Void)) return plain(value === null);
  if (flags & ts.TypeFlags.BooleanLiteral) return plain(String(value) === type.intrinsicName && typeof value === "boolean");
  if (flags & (ts.TypeFlags.StringLiteral | ts.TypeFlags.NumberLiteral)) return plain(value === type.value);
  if (flags & ts.TypeFlags.Number) return plain(typeof value === "number");
  if (flags & ts.TypeFlags.Boolean) return plain(typeof value === "boolean");
  if (flags & (ts.TypeFlags.String | ts.TypeFlags.TemplateLiteral)) {
    const begins = type.texts?.[0] ?? "";
    if (typeof value !== "string" || !value.startsWith(begins)) return plain(false);
    return pattern && !new RegExp(pattern).test(value) ? wrong(`a text like ${pattern}`) : [];
  }
  if (type.isIntersection()) return object(checker, type, value, path);
  if (checker.isTupleType(type)) {
    const members = checker.getTypeArguments(type);
    if (!Array.isArray(value) || value.length !== members.length) return plain(false);
    return members.flatMap((member, at) => check(checker, member, value[at], `${path}[${at}]`, pattern));
  }
  if (checker.isArrayType(type)) {
    if (!Array.isArray(value)) return plain(false);
    const [member] = checker.getTypeArguments(type);
    return value.flatMap((item, at) => check(checker, member, item, `${path}[${at}]`, pattern));
  }
  return object(checker, type, value, path);
}

function object(checker, type, value, path) {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return [`${path || "answer"}: ${shown(value)} where ${checker.typeToString(type)} is declared`];
  }
  const found = [];
  const declared = new Map(checker.getPropertiesOfType(type).map((symbol) => [symbol.name, symbol]));
  const others = checker.getIndexInfoOfType(type, ts.IndexKind.String);
  for (const [name, symbol] of declared) {
    const optional = symbol.flags & ts.SymbolFlags.Optional;
    if (!(name in value)) {
      if (!optional) found.push(`${path}.${name}: missing`);
      continue;
    }
    const pattern = symbol.getJsDocTags(checker).find((tag) => tag.name === "pattern")?.text?.map((part) => part.text).join("");
    found.push(...check(checker, checker.getTypeOfSymbol(symbol), value[name], `${path}.${name}`, pattern));
  }
  for (const [name, item] of Object.entries(value)) {
    if (declared.has(name)) continue;
    if (others) found.push(...check(checker, others.type, item, `${path}.${name}`, null));
    else found.push(`${path}.${name}: not declared`);
  }
  return found;
}

function shown(value) {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > 80 ? `${text.slice(0, 80)}...` : text;
}
