export * from "./doctorTurn.js";
export * from "./mtmeddialog.js";
export * from "./parquet.js";
export * from "./split.js";
