package hbase // breach: no package comment
