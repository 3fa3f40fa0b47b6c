-- Each event is one result of 10,000 rows, about 1.9 MB of packets.

sysbench.cmdline.options = {
   tables = {"Number of tables", 4},
   table_size = {"Number of rows per table", 50000},
   rows = {"Rows of a result", 10000},
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
   local first = sysbench.rand.uniform(1, opt.table_size - opt.rows + 1)
   con:query(string.format("SELECT id, k, c, pad FROM sbtest%d WHERE id BETWEEN %d AND %d",
      sysbench.rand.uniform(1, opt.tables), first, first + opt.rows - 1))
end
