-- Each event is a transaction that changes one row by its key.

sysbench.cmdline.options = {
   tables = {"Number of tables", 4},
   table_size = {"Number of rows per table", 50000},
}

function thread_init()
   drv = sysbench.sql.driver()
   con = drv:connect()
end

function thread_done()
   con:disconnect()
end

function event()
   local opt = sysbench.opt
   con:query("BEGIN")
   con:query(string.format("UPDATE sbtest%d SET k = k + 1 WHERE id = %d",
      sysbench.rand.uniform(1, opt.tables), sysbench.rand.uniform(1, opt.table_size)))
   con:query("COMMIT")
end
